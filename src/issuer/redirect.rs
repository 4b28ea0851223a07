//! Where a browser may be sent to (RFC 6749 §3.1.2, OpenID Connect RP-Initiated Logout §3).

use std::{net::IpAddr, sync::Arc};

use http::Uri;

/// A redirect URI as a client has registered it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RedirectUri(Arc<str>);

/// The longest that is taken, in bytes.
const MAX_BYTES: usize = 1024;

impl RedirectUri {
    /// Takes one over.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        const FORM: &str = "must be an absolute URL without a fragment, as in https://app.example.com/callback";
        if text.len() > MAX_BYTES || !text.bytes().all(|byte| matches!(byte, 0x21..=0x7e)) || text.contains('#') {
            return Err(FORM);
        }
        let Some((scheme, rest)) = text.split_once(':') else { return Err(FORM) };
        match scheme {
            "https" | "http" => {
                let uri: Uri = text.parse().map_err(|_| FORM)?;
                let authority = uri.authority().ok_or(FORM)?;
                if authority.as_str().contains('@') || authority.host().is_empty() {
                    return Err(FORM);
                }
                if scheme == "http" && !matches!(authority.host(), "127.0.0.1" | "[::1]" | "localhost") {
                    return Err(
                        "plain http is for loopback alone (127.0.0.1, [::1], localhost): what is sent there would travel readable",
                    );
                }
            }
            // RFC 8252 §7.1. It also keeps out javascript:, data: and their like.
            private if private.contains('.') && private.bytes().all(is_of_a_scheme) && !rest.is_empty() => {}
            _ => {
                return Err(
                    "an app's own scheme is a name of its maker's, reversed, as in com.example.app:/callback (RFC 8252 §7.1)",
                );
            }
        }
        Ok(Self(text.into()))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it leads to somebody alone who has shown that it is theirs: over TLS, to a host that is not this machine. A loopback
    /// address, or an app's own scheme, is whoever's takes it first (RFC 8252 §8.1, §8.6).
    pub fn is_claimed(&self) -> bool {
        is_claimed(&self.0)
    }

    /// Whether it is the one that is asked for: byte for byte, but for the port of a loopback address, which an app takes as it
    /// finds one (RFC 8252 §7.3).
    pub(super) fn is(&self, asked: &str) -> bool {
        *self.0 == *asked
            || match (loopback(&self.0), loopback(asked)) {
                (Some(own), Some(asked)) => own == asked,
                _ => false,
            }
    }
}

/// The same of one that is asked for.
pub(super) fn is_claimed(url: &str) -> bool {
    let uri = url.parse::<Uri>().ok().filter(|uri| uri.scheme_str() == Some("https"));
    let Some(host) = uri.as_ref().and_then(Uri::host) else { return false };
    let host = host.trim_matches(['[', ']']).to_ascii_lowercase();
    let is_name_of_ours = host == "localhost" || host.ends_with(".localhost");
    !is_name_of_ours && !host.parse::<IpAddr>().is_ok_and(|address| address.to_canonical().is_loopback())
}

/// What people can make something of: the host, or an app's own scheme.
pub(super) fn destination(uri: &str) -> &str {
    let Some((scheme, rest)) = uri.split_once(':') else { return uri };
    let authority = rest.strip_prefix("//").unwrap_or_default();
    let host = authority.split(['/', '?']).next().unwrap_or_default();
    if matches!(scheme, "http" | "https") { host } else { scheme }
}

/// The host and what comes after the port of a URL that goes to a loopback address.
fn loopback(url: &str) -> Option<(&str, &str)> {
    let host = ["http://127.0.0.1", "http://[::1]"].into_iter().find(|host| url.starts_with(host))?;
    let rest = &url[host.len()..];
    let Some(port) = rest.strip_prefix(':') else { return rest.starts_with(['/', '?']).then_some((host, rest)) };
    let end = port.find(['/', '?']).unwrap_or(port.len());
    let (port, rest) = port.split_at(end);
    let digits = !port.starts_with('0') && port.bytes().all(|byte| byte.is_ascii_digit());
    (digits && port.parse::<u16>().is_ok()).then_some((host, rest))
}

fn is_of_a_scheme(byte: u8) -> bool {
    matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'+' | b'-' | b'.')
}

#[cfg(test)]
mod tests {
    use super::RedirectUri;

    #[test]
    fn what_may_be_registered() {
        for good in [
            "https://app.example.com/callback",
            "https://app.example.com:8443/cb?tenant=1",
            "http://127.0.0.1/cb",
            "http://[::1]:3000/cb",
            "http://localhost:3000/cb",
            "com.example.app:/callback",
        ] {
            assert!(RedirectUri::parse(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            "/callback",
            "https://",
            "https://user@app.example.com/",
            "https://app.example.com/#there",
            "https://app.example.com/a b",
            "http://app.example.com/callback",
            "http://127.0.0.1.example.com/callback",
            "javascript:alert(1)",
            "data:text/html,hello",
            "myapp:/callback",
            "com.example.app:",
            "https://app.example.com/\u{e9}",
        ] {
            assert!(RedirectUri::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_nobody_else_can_take() {
        for (uri, is_claimed) in [
            ("https://app.example.com/cb", true),
            ("https://127.example.com/cb", true),
            ("https://localhost/cb", false),
            ("https://LocalHost/cb", false),
            ("https://app.localhost/cb", false),
            ("https://[::ffff:127.0.0.1]/cb", false),
            ("https://127.0.0.1:8443/cb", false),
            ("https://[::1]/cb", false),
            ("http://127.0.0.1/cb", false),
            ("http://localhost:3000/cb", false),
            ("com.example.app:/cb", false),
        ] {
            assert_eq!(RedirectUri::parse(uri).unwrap().is_claimed(), is_claimed, "{uri}");
        }
    }

    #[test]
    fn what_is_the_same() {
        let is = |own: &str, asked: &str| RedirectUri::parse(own).unwrap().is(asked);
        assert!(is("https://app.example.com/cb", "https://app.example.com/cb"));
        assert!(is("http://127.0.0.1/cb", "http://127.0.0.1:51004/cb"));
        assert!(is("http://127.0.0.1:3000/cb", "http://127.0.0.1/cb"));
        assert!(is("http://[::1]/cb", "http://[::1]:1/cb"));
        for (own, asked) in [
            ("https://app.example.com/cb", "https://app.example.com/cb/"),
            ("https://app.example.com/cb", "https://app.example.com/cb?x"),
            ("https://app.example.com/cb", "https://app.example.com/CB"),
            ("https://app.example.com/cb", "https://APP.example.com/cb"),
            ("https://app.example.com/cb", "https://app.example.com:443/cb"),
            ("https://app.example.com/cb", "https://app.example.com/x/../cb"),
            ("https://app.example.com/cb", "https://app.example.com/%63b"),
            ("https://app.example.com/cb", "https://app.example.com.evil.example/cb"),
            ("https://app.example.com/cb", "https://app.example.com@evil.example/cb"),
            ("http://127.0.0.1/cb", "http://127.0.0.1:80@evil.example/cb"),
            ("http://127.0.0.1/cb", "http://127.0.0.1.evil.example/cb"),
            ("http://127.0.0.1/cb", "http://127.0.0.1:99999/cb"),
            ("http://127.0.0.1/cb", "http://127.0.0.1:080/cb"),
            ("http://127.0.0.1/cb", "http://127.0.0.1:/cb"),
            ("http://127.0.0.1/cb", "http://127.0.0.1:1/other"),
            ("http://127.0.0.1/cb", "http://[::1]:1/cb"),
            ("http://127.0.0.1/cb", "https://127.0.0.1:1/cb"),
            ("http://localhost:3000/cb", "http://localhost:3001/cb"),
        ] {
            assert!(!is(own, asked), "{own} is not {asked}");
        }
    }
}
