//! Which route a request takes: the first that matches by host, path and method. Without one it goes nowhere.

use http::Method;

use super::config::{HostPattern, PathPattern, Route};

/// The first route for this host, path (decoded) and method, with its index.
pub fn find<'a>(routes: &'a [Route], host: &str, path: &str, method: &Method) -> Option<(usize, &'a Route)> {
    routes.iter().enumerate().find(|(_, route)| {
        path_matches(&route.path, path)
            && (route.methods.is_empty() || route.methods.contains(method))
            && (route.hosts.is_empty() || route.hosts.iter().any(|pattern| host_matches(pattern, host)))
    })
}

/// A route that matches a path matches it at segment boundaries: `/admin` is not a prefix of `/administrator`.
fn path_matches(pattern: &PathPattern, path: &str) -> bool {
    match pattern {
        PathPattern::Exact(exact) => path == &**exact,
        PathPattern::Prefix(prefix) if &**prefix == "/" => true,
        PathPattern::Prefix(prefix) => {
            path.strip_prefix(&**prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        }
    }
}

fn host_matches(pattern: &HostPattern, host: &str) -> bool {
    match pattern {
        HostPattern::Exact(name) => host == &**name,
        HostPattern::Below(parent) => {
            host.strip_suffix(&**parent).is_some_and(|rest| rest.len() > 1 && rest.ends_with('.'))
        }
    }
}
