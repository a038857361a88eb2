//! What a change changed: two records of one kind, walked field by field. Secrets are masked here, before
//! anything leaves the process: that one changed is told, what it was or is never.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;

/// Stands for a secret.
pub const MASK: &str = "…";
/// Fields of one entry that are told; of more, how many there were.
const MAX_FIELDS: usize = 100;
/// Longest value that is told, in bytes of its JSON.
const MAX_VALUE_BYTES: usize = 1024;
/// How deep records are walked; below, values are compared whole.
const MAX_DEPTH: usize = 4;
/// A field whose name has one of these as a word, or at its end, is a secret.
const SECRET_WORDS: [&str; 11] = [
    "password",
    "passphrase",
    "secret",
    "token",
    "hash",
    "sha256",
    "credential",
    "credentials",
    "private",
    "otp",
    "pin",
];
/// Names that are secret only as a whole or at their end ("key" is: "api_key"; "key_id" is not).
const SECRET_ENDINGS: [&str; 3] = ["key", "keys", "seed"];

/// One field before and after; `None`: it was not there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<Value>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<Value>,
}

/// Changes by the path of their field, with dots.
pub type Changes = BTreeMap<String, Change>;

/// What differs between two records: `None` is one that is not there (made, or deleted).
#[must_use]
pub fn changes<T: Serialize>(before: Option<&T>, after: Option<&T>) -> Changes {
    let value = |record: Option<&T>| record.map(|record| serde_json::to_value(record).unwrap_or(Value::Null));
    let mut found = Changes::new();
    let mut omitted = 0_u64;
    walk("", false, value(before), value(after), 0, &mut |path, change| {
        if found.len() < MAX_FIELDS {
            found.insert(path, change);
        } else {
            omitted += 1;
        }
    });
    if omitted > 0 {
        found.insert("~omitted_fields".to_owned(), Change { before: None, after: Some(omitted.into()) });
    }
    found
}

fn walk(
    path: &str,
    secret: bool,
    before: Option<Value>,
    after: Option<Value>,
    depth: usize,
    tell: &mut dyn FnMut(String, Change),
) {
    if before == after {
        return;
    }
    let is_record = |value: &Option<Value>| matches!(value, None | Some(Value::Object(_)));
    let has_fields = matches!(before, Some(Value::Object(_))) || matches!(after, Some(Value::Object(_)));
    if has_fields && is_record(&before) && is_record(&after) && depth < MAX_DEPTH {
        let fields = |value: Option<Value>| match value {
            Some(Value::Object(fields)) => fields.into_iter().collect::<BTreeMap<_, _>>(),
            Some(_) | None => BTreeMap::new(),
        };
        let (mut before, mut after) = (fields(before), fields(after));
        let names: std::collections::BTreeSet<String> = before.keys().chain(after.keys()).cloned().collect();
        for name in names {
            let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
            let secret = secret || is_secret(&name);
            walk(&path, secret, before.remove(&name), after.remove(&name), depth + 1, tell);
        }
        return;
    }
    // What is null was not there.
    let told = |value: Option<Value>| value.filter(|value| !value.is_null()).map(|value| shown(value, secret));
    let change = Change { before: told(before), after: told(after) };
    if change.before.is_some() || change.after.is_some() {
        let path = if path.is_empty() { "value".to_owned() } else { path.to_owned() };
        tell(path, change);
    }
}

fn shown(value: Value, secret: bool) -> Value {
    if secret {
        return MASK.into();
    }
    let value = masked_within(value);
    let bytes = value.to_string().len();
    if bytes <= MAX_VALUE_BYTES {
        return value;
    }
    let text = match value {
        Value::String(text) => text,
        other @ (Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_)) => {
            other.to_string()
        }
    };
    let cut: String = text.chars().take(MAX_VALUE_BYTES / 4).collect();
    format!("{cut}… ({bytes} bytes)").into()
}

/// Secrets deep inside what is told whole.
fn masked_within(value: Value) -> Value {
    match value {
        Value::Object(fields) => fields
            .into_iter()
            .map(|(name, value)| {
                let value = if is_secret(&name) && !value.is_null() { MASK.into() } else { masked_within(value) };
                (name, value)
            })
            .collect::<serde_json::Map<_, _>>()
            .into(),
        Value::Array(items) => items.into_iter().map(masked_within).collect::<Vec<_>>().into(),
        scalar @ (Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_)) => scalar,
    }
}

fn is_secret(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    let mut words = name.split(['_', '-', '.', ' ']).peekable();
    let last = name.rsplit(['_', '-', '.', ' ']).next().unwrap_or(&name);
    SECRET_ENDINGS.contains(&last)
        || words.any(|word| SECRET_WORDS.contains(&word))
        || name.contains("password")
        || name.contains("secret")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    #[test]
    fn only_what_differs_is_told_and_secrets_are_masked() {
        let before = json!({"name": "a", "same": 1, "password_hash": "x", "address": {"city": "Bonn", "zip": "1"},
            "tags": ["a"], "gone": true, "key_id": 1, "created_ms": null});
        let after = json!({"name": "b", "same": 1, "password_hash": "y", "address": {"city": "Köln", "zip": "1"},
            "tags": ["a", "b"], "key_id": 2, "webhook": {"url": "u", "secret": "s"},
            "list": [{"api_key": "k", "n": 1}]});
        let told = serde_json::to_value(changes(Some(&before), Some(&after))).expect("plain");
        assert_eq!(
            told,
            json!({
                "name": {"before": "a", "after": "b"},
                "password_hash": {"before": MASK, "after": MASK},
                "address.city": {"before": "Bonn", "after": "Köln"},
                "tags": {"before": ["a"], "after": ["a", "b"]},
                "gone": {"before": true},
                "key_id": {"before": 1, "after": 2},
                "webhook.url": {"after": "u"},
                "webhook.secret": {"after": MASK},
                "list": {"after": [{"api_key": MASK, "n": 1}]},
            })
        );
    }

    #[test]
    fn names_of_secrets() {
        for name in [
            "password",
            "passwordHash",
            "client_secret",
            "api-key",
            "refresh_token",
            "secret_sha256",
            "key",
            "clientsecret",
        ] {
            assert!(is_secret(name), "{name}");
        }
        for name in ["name", "key_id", "tokens_used_by", "opinion", "spinner", "hostname", "hashtags"] {
            assert!(!is_secret(name), "{name}");
        }
    }

    #[test]
    fn much_is_cut() {
        let many: BTreeMap<String, String> = (0..200).map(|n| (format!("f{n}"), "x".repeat(5_000))).collect();
        let told = changes(None, Some(&many));
        assert_eq!(told.len(), MAX_FIELDS + 1);
        assert!(serde_json::to_string(&told).expect("plain").len() < 64 * 1024);
        assert_eq!(told["~omitted_fields"].after, Some(100.into()));
    }

    proptest! {
        /// Whatever a secret is and wherever it stands, it is not told.
        #[test]
        fn no_secret_gets_through(secret in "[A-Z]{12}", depth in 0_usize..8, list in any::<bool>()) {
            let mut value = json!({ "client_secret": secret });
            for _ in 0..depth {
                value = if list { json!({ "in": [value] }) } else { json!({ "in": value }) };
            }
            let told = serde_json::to_string(&changes(None, Some(&value))).expect("plain");
            prop_assert!(!told.contains(&secret), "{}", told);
        }
    }
}
