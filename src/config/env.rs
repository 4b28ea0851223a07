//! `${NAME}` in a value is replaced from the environment; `$${` stands for `${` itself.

use super::error::quote;

/// Replaces every `${NAME}`. What a variable holds is not looked at again.
///
/// # Errors
/// When a variable is not set, is not UTF-8, or the braces hold no name.
pub(super) fn expand(text: &str) -> Result<String, String> {
    let mut out = String::with_capacity(text.len());
    for part in Parts(text) {
        match part {
            Part::Text(text) => out.push_str(text),
            Part::Variable(name) => out.push_str(&variable(name)?),
        }
    }
    Ok(out)
}

/// Whether nothing but variables stands in the text, so that whoever reads the file learns nothing.
pub(super) fn is_all_variables(text: &str) -> bool {
    !text.is_empty() && Parts(text).all(|part| matches!(part, Part::Variable(_)))
}

fn variable(name: &str) -> Result<String, String> {
    let is_name =
        name.bytes().enumerate().all(|(n, b)| b.is_ascii_alphabetic() || b == b'_' || n > 0 && b.is_ascii_digit());
    if name.is_empty() || !is_name {
        // Not repeated: a secret that happens to hold "${" must not be printed.
        return Err("\"${\" does not begin the name of an environment variable in braces; write \"$${\" where it stands for itself".into());
    }
    std::env::var(name).map_err(|error| match error {
        std::env::VarError::NotPresent => format!("the environment variable {} is not set", quote(name)),
        std::env::VarError::NotUnicode(_) => format!("the environment variable {} is not UTF-8", quote(name)),
    })
}

enum Part<'a> {
    Text(&'a str),
    /// The text between the braces; empty where the closing one is missing.
    Variable(&'a str),
}

struct Parts<'a>(&'a str);

impl<'a> Iterator for Parts<'a> {
    type Item = Part<'a>;

    fn next(&mut self) -> Option<Part<'a>> {
        let text = self.0;
        if text.is_empty() {
            return None;
        }
        let (part, rest) = if let Some(after) = text.strip_prefix("$${") {
            (Part::Text("${"), after)
        } else if let Some(after) = text.strip_prefix("${") {
            after.split_once('}').map_or((Part::Variable(""), ""), |(name, rest)| (Part::Variable(name), rest))
        } else {
            let end = text.find('$').map_or(text.len(), |dollar| {
                // A dollar that begins neither form is text, as in `$argon2id$…`.
                if text[dollar..].starts_with("${") || text[dollar..].starts_with("$${") { dollar } else { dollar + 1 }
            });
            (Part::Text(&text[..end]), &text[end..])
        };
        self.0 = rest;
        Some(part)
    }
}
