//! The filter language: what parses, what it means canonically, and what the errors say.

use breeze_control_plane::filter::{Expr, FIELDS, Field, Kind, MAX_DEPTH, Moment, Order, Test, Value, describe, parse};
use proptest::{collection::vec, option, prelude::*};

fn canonical(text: &str) -> String {
    match parse(text) {
        Ok(Some(expr)) => expr.to_string(),
        Ok(None) => String::new(),
        Err(error) => format!("error {error}"),
    }
}

#[test]
fn filters_have_one_canonical_form() {
    for (text, expected) in [
        ("", ""),
        ("  ", ""),
        ("web", r#""web""#),
        ("web server", r#""web" and "server""#),
        (
            r#"os = "windows" and ram_gb > 8 and not tag:patched"#,
            r#"os_type = "windows" and ram_gb > 8 and not tag = "patched""#,
        ),
        ("hostname ~ web*", r#"hostname ~ "web*""#),
        ("hostname:web", r#"hostname ~ "web""#),
        ("HOST:web OR site=HQ", r#"hostname ~ "web" or site = "HQ""#),
        ("status in (online, Offline)", r#"status in ("online", "offline")"#),
        ("tag not in (a,b)", r#"tag not in ("a", "b")"#),
        ("a or b c", r#""a" or ("b" and "c")"#),
        ("(a or b) c", r#"("a" or "b") and "c""#),
        ("not (a b)", r#"not ("a" and "b")"#),
        ("last_seen < 120m ago", "last_seen_at < 2h ago"),
        ("last_seen < 90s ago", "last_seen_at < 90s ago"),
        ("enrolled > 2026-11-24", r#"enrolled_at > "2026-11-24T00:00:00Z""#),
        (r#"enrolled > "2026-11-24T13:00:00+01:00""#, r#"enrolled_at > "2026-11-24T12:00:00Z""#),
        ("uptime > 3d", "uptime_s > 259200"),
        ("cpu >= 90.5%", "cpu_percent >= 90.5"),
        ("cpu > -0", "cpu_percent > 0"),
        ("last_user is empty", "last_user is empty"),
        ("last_user is not empty", "last_user is not empty"),
        ("pending_reboot = yes", "pending_reboot = true"),
        ("10.0.0.1 is in site", r#""10.0.0.1" and "is" and "in" and "site""#),
        (r#"user = "ACME\bob""#, r#"last_user = "ACME\\bob""#),
        (r#"'say "hi"'"#, r#""say \"hi\"""#),
        ("O'Brien", r#""O'Brien""#),
    ] {
        assert_eq!(canonical(text), expected, "{text}");
        assert_eq!(canonical(expected), expected, "canonical is canonical: {expected}");
    }
}

#[test]
fn errors_name_the_place_what_was_expected_and_what_was_probably_meant() {
    for (text, position, mentions) in [
        ("ram > 8 and", 12, "a field such as hostname"),
        ("hostnmae = x", 1, r#"did you mean "hostname"?"#),
        ("ram_gb > lots", 10, "a number (GiB), found \"lots\""),
        ("ram_gb ~ 8", 8, "operator of ram_gb"),
        ("status = onlin", 10, r#"did you mean "online"?"#),
        ("status in (online", 18, "`,` or `)`, but the filter ends here"),
        ("(a or b", 8, "`)`"),
        ("a )", 3, "`and`, `or`"),
        ("last_seen < 2h", 13, "`2h ago`"),
        ("last_seen < yesterday", 13, "a time: `2h ago`"),
        ("pending_reboot = maybe", 18, "true or false"),
        (r#"hostname = "web"#, 12, "a closing \""),
        ("fe80::1", 1, "in quotes"),
        ("a ! b", 3, "to negate, write `not`"),
        ("ärger and os = ", 16, "a value, but the filter ends here"),
        ("= x", 1, "a field such as hostname"),
        ("enrolled > 1901-01-01", 12, "a time"),
    ] {
        let error = parse(text).expect_err(text);
        assert_eq!(error.position, position, "{text}: {error}");
        assert!(error.to_string().contains(mentions), "{text}: {error}");
    }
}

#[test]
fn depth_length_and_terms_are_bounded() {
    let nested = |depth: usize| format!("{}a{}", "(".repeat(depth), ")".repeat(depth));
    assert!(parse(&nested(MAX_DEPTH)).is_ok());
    assert!(parse(&nested(MAX_DEPTH + 1)).expect_err("too deep").to_string().contains("levels"));
    assert!(parse(&"not ".repeat(1000)).expect_err("too deep").to_string().contains("levels"));
    assert!(parse(&"a".repeat(5000)).expect_err("too long").to_string().contains("4096"));
    assert!(parse(&"a ".repeat(64)).is_ok());
    assert!(parse(&"a ".repeat(65)).expect_err("too many").to_string().contains("64 tests"));
    let list = |values: usize| format!("tag in (a{})", ",a".repeat(values));
    assert!(parse(&list(512)).is_ok());
    assert!(parse(&list(513)).expect_err("too many").to_string().contains("512 values"));
}

#[test]
fn the_field_list_is_what_the_parser_takes() {
    let fields = describe();
    assert_eq!(fields.len(), FIELDS.len());
    for field in &fields {
        for operator in field.operators {
            let value = match field.r#type {
                "number" => "1",
                "time" => "1h ago",
                "boolean" => "true",
                "choice" => field.values[0],
                _ => "x",
            };
            let text = match *operator {
                "in" | "not in" => format!("{} {operator} ({value})", field.name),
                "is empty" | "is not empty" => format!("{} {operator}", field.name),
                _ => format!("{} {operator} {value}", field.name),
            };
            assert!(parse(&text).is_ok(), "{text}: {:?}", parse(&text));
        }
    }
    let json = serde_json::to_value(&fields).expect("plain data");
    assert_eq!(json[2]["name"], "status");
    assert_eq!(json[2]["values"][0], "online");
}

fn text() -> impl Strategy<Value = String> {
    prop_oneof!["[a-z0-9*?._ -]{0,10}", "\\PC{0,10}", Just("or".to_owned()), Just("\\\"'".to_owned())]
}

fn value(field: Field) -> BoxedStrategy<Value> {
    match field.kind() {
        Kind::Text | Kind::Tags => text().prop_map(Value::Text).boxed(),
        Kind::Choice(choices) => proptest::sample::select(choices).prop_map(|c| Value::Text(c.to_owned())).boxed(),
        Kind::Number(_) => {
            (-1_000_000_000i64..1_000_000_000_000).prop_map(|n| Value::Number(n as f64 / 1000.0)).boxed()
        }
        Kind::Time => prop_oneof![
            (0u64..1_000_000_000).prop_map(|seconds| Value::Time(Moment::AgoS(seconds))),
            (0i64..4_000_000_000_000).prop_map(|at| Value::Time(Moment::AtMs(at))),
        ]
        .boxed(),
        Kind::Bool => any::<bool>().prop_map(Value::Bool).boxed(),
    }
}

fn order() -> impl Strategy<Value = Order> {
    proptest::sample::select(vec![Order::Less, Order::LessOrEqual, Order::Greater, Order::GreaterOrEqual])
}

fn test() -> impl Strategy<Value = Expr> {
    proptest::sample::select(FIELDS).prop_flat_map(|info| {
        let field = info.field;
        let operators: Vec<&str> = info.kind.operators().iter().copied().filter(|operator| *operator != ":").collect();
        (proptest::sample::select(operators), order(), vec(value(field), 1..4), text()).prop_map(
            move |(operator, order, values, pattern)| {
                let first = values[0].clone();
                let test = match operator {
                    "=" => Test::Equals(first),
                    "!=" => Test::NotEquals(first),
                    "~" => Test::Matches(pattern),
                    "!~" => Test::NotMatches(pattern),
                    "in" => Test::In(values),
                    "not in" => Test::NotIn(values),
                    "is empty" => Test::Empty,
                    "is not empty" => Test::NotEmpty,
                    _ => Test::Compare(order, first),
                };
                Expr::Test(field, test)
            },
        )
    })
}

fn expr() -> impl Strategy<Value = Expr> {
    prop_oneof![text().prop_map(Expr::Words), test()].prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            vec(inner.clone(), 2..4).prop_map(|operands| Expr::and(operands).expect("not empty")),
            vec(inner.clone(), 2..4).prop_map(|operands| Expr::or(operands).expect("not empty")),
            inner.prop_map(|operand| Expr::Not(Box::new(operand))),
        ]
    })
}

proptest! {
    #[test]
    fn what_is_printed_parses_to_the_same(expr in expr()) {
        let text = expr.to_string();
        prop_assume!(text.len() <= 4096);
        prop_assert_eq!(parse(&text), Ok(Some(expr)), "{}", text);
    }

    #[test]
    fn nothing_panics_and_errors_point_into_the_text(text in "\\PC{0,120}") {
        if let Err(error) = parse(&text) {
            prop_assert!(error.position >= 1 && error.position <= text.chars().count() + 1);
        }
    }

    #[test]
    fn near_filters_do_not_panic(
        words in vec(
            proptest::sample::select(vec![
                "and", "or", "not", "(", ")", "in", "is", "empty", "ago", ":", "=", "!=", "~", "<", ">=", ",", "os", "tag",
                "ram_gb", "last_seen", "status", "online", "8", "2h", "\"x", "'y'", "\\", "9999999999999999999w", "%",
            ]),
            0..40,
        ),
        glue in option::of(Just(" ")),
    ) {
        if let Ok(Some(expr)) = parse(&words.join(glue.unwrap_or(""))) {
            let printed = expr.to_string();
            prop_assert_eq!(parse(&printed), Ok(Some(expr)));
        }
    }
}
