//! A configuration as it may be shown: what is secret in it, and what came from the environment, is not there.

use serde_json::Value;

use super::path::Path;

/// What stands in the place of what is not shown.
const HIDDEN: &str = "(hidden)";

/// Keys with secrets behind them, hashes of secrets among them, wherever they stand; and the private members of a JWK (RFC 7518
/// §6), which no other mapping of ours has.
const SECRET: [&str; 20] = [
    "secret_hash",
    "secret_hashes",
    "password_hash",
    "master_key",
    "previous_master_keys",
    "token",
    "credential",
    "password",
    "sentinel_password",
    "hmac_secret",
    "secret",
    "private_key",
    "d",
    "p",
    "q",
    "dp",
    "dq",
    "qi",
    "oth",
    "k",
];

/// Hides what is secret below `at`; `is_hidden` tells of what else is.
pub(super) fn without_secrets(value: &Value, at: &Path, is_hidden: &impl Fn(&Path) -> bool) -> Value {
    if is_hidden(at) {
        return HIDDEN.into();
    }
    match value {
        Value::Object(map) => map
            .iter()
            .map(|(key, value)| {
                let at = at.key(key);
                // Where the secret is, is none.
                let is_elsewhere = value.get("from_file").is_some();
                let shown = if SECRET.contains(&key.as_str()) && !is_elsewhere {
                    HIDDEN.into()
                } else {
                    without_secrets(value, &at, is_hidden)
                };
                (key.clone(), shown)
            })
            .collect(),
        Value::Array(items) => {
            items.iter().enumerate().map(|(n, item)| without_secrets(item, &at.index(n), is_hidden)).collect()
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => value.clone(),
    }
}
