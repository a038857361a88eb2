// The routes. Each page is its own chunk; what a URL may hold is checked here.
import {
  createRootRouteWithContext,
  createRoute,
  createRouter,
  lazyRouteComponent,
  Outlet,
  redirect,
} from "@tanstack/react-router";
import type { QueryClient } from "@tanstack/react-query";
import { NotFound } from "@/app/routes/not-found";
import { RouteFault } from "@/app/routes/route-fault";
import { ShellSkeleton } from "@/app/shell/shell-skeleton";
import { isUnauthenticated } from "@/lib/api/client";
import { makeQueryClient } from "@/lib/api/query-client";
import { sessionLost, sessionQuery } from "@/lib/session";
import {
  auditSearch,
  compact,
  deviceSearch,
  devicesSearch,
  localPath,
  parseSearch,
  stringifySearch,
  textParam,
  type RawSearch,
} from "@/lib/url";

export const queryClient = makeQueryClient();

const root = createRootRouteWithContext<{ queryClient: QueryClient }>()({
  component: Outlet,
  notFoundComponent: NotFound,
  errorComponent: RouteFault,
});

const setup = createRoute({
  getParentRoute: () => root,
  path: "/setup",
  component: lazyRouteComponent(() => import("@/features/auth/components/setup-page"), "SetupPage"),
});

const signIn = createRoute({
  getParentRoute: () => root,
  path: "/sign-in",
  validateSearch: (raw: RawSearch): { next?: string } => compact({ next: localPath(raw.next) }),
  component: lazyRouteComponent(
    () => import("@/features/auth/components/sign-in-page"),
    "SignInPage",
  ),
});

const app = createRoute({
  getParentRoute: () => root,
  id: "app",
  // `add` opens the dialog that adds a device, over whatever page is shown.
  validateSearch: (raw: RawSearch): { add?: string } => compact({ add: textParam(raw.add) }),
  beforeLoad: async ({ context, location }) => {
    try {
      await context.queryClient.query({ ...sessionQuery, staleTime: "static" });
    } catch (error) {
      if (!isUnauthenticated(error)) throw error;
      sessionLost.set(false);
      const next = location.href === "/" ? undefined : location.href;
      throw redirect({ to: "/sign-in", search: compact({ next }), replace: true });
    }
  },
  component: lazyRouteComponent(() => import("@/app/shell/shell"), "Shell"),
  pendingComponent: ShellSkeleton,
  pendingMs: 0,
  errorComponent: RouteFault,
});

const overview = createRoute({
  getParentRoute: () => app,
  path: "/",
  component: lazyRouteComponent(
    () => import("@/features/overview/components/overview-page"),
    "OverviewPage",
  ),
});

const devices = createRoute({
  getParentRoute: () => app,
  path: "/devices",
  validateSearch: devicesSearch,
  component: lazyRouteComponent(
    () => import("@/features/devices/components/devices-page"),
    "DevicesPage",
  ),
});

const device = createRoute({
  getParentRoute: () => app,
  path: "/devices/$deviceId",
  validateSearch: deviceSearch,
  component: lazyRouteComponent(
    () => import("@/features/device/components/device-page"),
    "DevicePage",
  ),
});

const audit = createRoute({
  getParentRoute: () => app,
  path: "/audit",
  validateSearch: auditSearch,
  component: lazyRouteComponent(
    () => import("@/features/audit/components/audit-page"),
    "AuditPage",
  ),
});

const keys = createRoute({
  getParentRoute: () => app,
  path: "/settings/enrolment-keys",
  component: lazyRouteComponent(
    () => import("@/features/enrollment/components/keys-page"),
    "KeysPage",
  ),
});

const pending = createRoute({
  getParentRoute: () => app,
  path: "/settings/pending-devices",
  component: lazyRouteComponent(
    () => import("@/features/enrollment/components/pending-page"),
    "PendingPage",
  ),
});

const apiDocs = createRoute({
  getParentRoute: () => app,
  path: "/settings/api",
  validateSearch: (raw: RawSearch): { operation?: string; find?: string } =>
    compact({ operation: textParam(raw.operation), find: textParam(raw.find) }),
  component: lazyRouteComponent(
    () => import("@/features/api-docs/components/api-docs-page"),
    "ApiDocsPage",
  ),
});

const status = createRoute({
  getParentRoute: () => app,
  path: "/status",
  component: lazyRouteComponent(
    () => import("@/features/status/components/status-page"),
    "StatusPage",
  ),
});

const tree = root.addChildren([
  setup,
  signIn,
  app.addChildren([overview, devices, device, audit, keys, pending, apiDocs, status]),
]);

export const router = createRouter({
  routeTree: tree,
  context: { queryClient },
  defaultPreload: "intent",
  defaultPendingMs: 80,
  defaultPendingMinMs: 0,
  defaultErrorComponent: RouteFault,
  scrollRestoration: true,
  parseSearch,
  stringifySearch,
});

declare module "@tanstack/react-router" {
  interface Register {
    router: typeof router;
  }
}
