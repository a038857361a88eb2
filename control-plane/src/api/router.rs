//! The only way to register an endpoint. Each says who may call it; there is no default. What the
//! guard demands is written into the OpenAPI document by the same hand, so the two cannot differ.

use crate::{
    api::{
        access::{Caller, Permission, Principal},
        guard,
        rate::Class,
    },
    context::App,
    error::Problem,
};
use axum::{Router, http::Extensions, middleware::from_fn_with_state, routing::MethodRouter};
use std::{collections::BTreeSet, sync::Arc};
use utoipa::{
    PartialSchema, ToSchema,
    openapi::{
        ContentBuilder, OpenApi, Ref, RefOr, ResponseBuilder,
        extensions::ExtensionsBuilder,
        path::{Operation, PathItem},
        security::SecurityRequirement,
    },
};
use utoipa_axum::router::{OpenApiRouter, UtoipaMethodRouter};

/// The name of a mutation in the audit log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Action {
    pub name: &'static str,
    /// Whether success must have left an entry: a commit that took the intent, one that was written by
    /// itself, or the word that nothing was changed.
    pub audited: bool,
}

impl Action {
    /// `<resource>.<verb>`.
    #[must_use]
    pub const fn new(name: &'static str) -> Self {
        Self { name, audited: true }
    }

    /// Changes nothing that outlives the connection: only denials and failures are entries.
    #[must_use]
    pub const fn quiet(name: &'static str) -> Self {
        Self { name, audited: false }
    }
}

/// What stands before one endpoint.
#[derive(Debug, Clone, Copy)]
pub(super) struct Guard {
    pub(super) permission: Option<&'static str>,
    pub(super) action: Option<Action>,
    pub(super) class: Class,
    /// Whether it reads, though it leaves an entry.
    pub(super) exports: bool,
    pub(super) prove: fn(Arc<Principal>, &mut Extensions),
}

/// A registered operation: method and path.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Endpoint {
    pub method: String,
    pub path: String,
}

/// Collects endpoints. `routes!` of utoipa-axum gives what each method takes.
pub struct Api {
    openapi: OpenApi,
    routes: Vec<(Guard, UtoipaMethodRouter<App>)>,
    endpoints: BTreeSet<Endpoint>,
}

impl std::fmt::Debug for Api {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Api").field("endpoints", &self.endpoints).finish_non_exhaustive()
    }
}

impl Api {
    #[must_use]
    pub const fn new(openapi: OpenApi) -> Self {
        Self { openapi, routes: Vec::new(), endpoints: BTreeSet::new() }
    }

    /// Anybody may read it.
    #[must_use]
    pub fn public(self, routes: UtoipaMethodRouter<App>) -> Self {
        let guard =
            Guard { permission: None, action: None, class: Class::Public, exports: false, prove: prove_nothing };
        self.endpoint(guard, routes)
    }

    /// Anybody may try it; the handler itself decides by what the body carries.
    #[must_use]
    pub fn public_mutation(self, action: Action, class: Class, routes: UtoipaMethodRouter<App>) -> Self {
        self.endpoint(
            Guard { permission: None, action: Some(action), class, exports: false, prove: prove_nothing },
            routes,
        )
    }

    /// Who is signed in and has `P` may read it.
    #[must_use]
    pub fn read<P: Permission>(self, routes: UtoipaMethodRouter<App>) -> Self {
        let guard =
            Guard { permission: Some(P::NAME), action: None, class: Class::Session, exports: false, prove: prove::<P> };
        self.endpoint(guard, routes)
    }

    /// Who is signed in and has `P` may do it.
    #[must_use]
    pub fn mutation<P: Permission>(self, action: Action, routes: UtoipaMethodRouter<App>) -> Self {
        let guard = Guard {
            permission: Some(P::NAME),
            action: Some(action),
            class: Class::Session,
            exports: false,
            prove: prove::<P>,
        };
        self.endpoint(guard, routes)
    }

    /// Who is signed in and has `P` may take it out of the house. The handler writes the entry
    /// ([`Mutation::record`](super::Mutation::record)) before it answers.
    #[must_use]
    pub fn export<P: Permission>(self, action: Action, routes: UtoipaMethodRouter<App>) -> Self {
        let class = Class::Session;
        let guard = Guard { permission: Some(P::NAME), action: Some(action), class, exports: true, prove: prove::<P> };
        self.endpoint(guard, routes)
    }

    fn endpoint(mut self, guard: Guard, (mut schemas, mut paths, router): UtoipaMethodRouter<App>) -> Self {
        schemas.push((Problem::name().into_owned(), Problem::schema()));
        Problem::schemas(&mut schemas);
        for (path, item) in &mut paths.paths {
            for (method, operation) in operations(item) {
                let reads = method == "get";
                let is_read = guard.action.is_none() || guard.exports;
                assert!(reads == is_read, "{method} {path}: reads are GET, and only they");
                describe(operation, &guard);
                let new = self.endpoints.insert(Endpoint { method: method.to_owned(), path: path.clone() });
                assert!(new, "{method} {path} is registered twice");
            }
        }
        self.routes.push((guard, (schemas, paths, router)));
        self
    }

    /// Every registered operation.
    pub fn endpoints(&self) -> impl Iterator<Item = &Endpoint> {
        self.endpoints.iter()
    }

    /// The document alone.
    #[must_use]
    pub fn into_openapi(self) -> OpenApi {
        self.assemble(|_, router| router).1
    }

    /// The guarded router, and the document.
    pub fn into_router(self, app: &App) -> (Router<App>, OpenApi) {
        self.assemble(|guard, router| router.route_layer(from_fn_with_state((app.clone(), guard), guard::stand)))
    }

    fn assemble(self, wrap: impl Fn(Guard, MethodRouter<App>) -> MethodRouter<App>) -> (Router<App>, OpenApi) {
        let mut router = OpenApiRouter::with_openapi(self.openapi);
        for (guard, (schemas, paths, methods)) in self.routes {
            router = router.routes((schemas, paths, wrap(guard, methods)));
        }
        router.split_for_parts()
    }
}

fn prove_nothing(_: Arc<Principal>, _: &mut Extensions) {}

fn prove<P: Permission>(principal: Arc<Principal>, extensions: &mut Extensions) {
    extensions.insert(Caller::<P>::proven(principal));
}

/// The operations of a path with their methods in lower case.
pub(crate) fn operations(item: &mut PathItem) -> impl Iterator<Item = (&'static str, &mut Operation)> {
    [
        ("get", &mut item.get),
        ("post", &mut item.post),
        ("put", &mut item.put),
        ("patch", &mut item.patch),
        ("delete", &mut item.delete),
        ("head", &mut item.head),
        ("options", &mut item.options),
        ("trace", &mut item.trace),
    ]
    .into_iter()
    .filter_map(|(method, operation)| operation.as_mut().map(|operation| (method, operation)))
}

/// Writes what the guard does into the document.
fn describe(operation: &mut Operation, guard: &Guard) {
    let none: [&str; 0] = [];
    operation.security = Some(match guard.permission {
        None => Vec::new(),
        Some(_) => {
            vec![SecurityRequirement::new("session_cookie", none), SecurityRequirement::new("bearer", none)]
        }
    });
    let access = guard.permission.unwrap_or("public");
    let mut extensions = ExtensionsBuilder::new().add("x-access", access);
    if let Some(action) = guard.action {
        extensions = extensions.add("x-audit-action", action.name);
    }
    operation.extensions = Some(extensions.build());
    let problem = ResponseBuilder::new()
        .description("What went wrong, and how to go on")
        .content(
            "application/problem+json",
            ContentBuilder::new().schema(Some(RefOr::Ref(Ref::from_schema_name(Problem::name())))).build(),
        )
        .build();
    operation.responses.responses.insert("default".to_owned(), RefOr::T(problem));
}
