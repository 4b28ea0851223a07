//! What a request may look like and how much of it may come: the keys for it.

use super::{BASE, Folder, check, faults, text};

/// What stands behind `auth: none` of the first route, or behind the claim headers of the second, and what is said then.
const WRONG: &[(&str, &str, &str)] = &[
    (
        "limits: { header_timeout: 10s",
        "limits: { max_connections_per_address: 0",
        "5:11: limits.max_connections_per_address: must be from 1 to 1000000",
    ),
    (
        "limits: { header_timeout: 10s",
        "limits: { max_body_bytes: 1MB",
        "5:11: limits.max_body_bytes: not a size; write none, 512B, 8KiB, 1MiB or a number of bytes",
    ),
    (
        "auth: none",
        "auth: none\n    max_body_bytes: unlimited",
        "20:5: routes[0].max_body_bytes: not a size; write none, 512B, 8KiB, 1MiB or a number of bytes",
    ),
    (
        "auth: none",
        "auth: none\n    allow_paths: [encoded_slashes]",
        "20:19: routes[0].allow_paths[0]: must be encoded_slash, empty_segment, semicolon, backslash or double_encoding; did you mean \"encoded_slash\"?",
    ),
    (
        "auth: none",
        "auth: none\n    allow_paths: semicolon",
        "20:5: routes[0].allow_paths: expected a list, found a string",
    ),
    (
        "auth: none",
        "auth: none\n    rate_limit: { by: address }",
        "20:5: routes[0].rate_limit.requests: missing: how many requests, in the time that `per` says",
    ),
    (
        "auth: none",
        "auth: none\n    rate_limit: { requests: 5 }",
        "20:5: routes[0].rate_limit.by: missing: who shares the allowance: route, address, client or subject",
    ),
    (
        "auth: none",
        "auth: none\n    rate_limit: { by: ip, requests: 5 }",
        "20:19: routes[0].rate_limit.by: must be route, address, client or subject",
    ),
    (
        "auth: none",
        "auth: none\n    rate_limit: { by: subject, requests: 5 }",
        "20:19: routes[0].rate_limit.by: has no meaning with auth: none, which looks at no token; count by address or route",
    ),
    (
        "auth: none",
        "auth: none\n    rate_limits: [{ by: route, requests: 0 }]",
        "20:32: routes[0].rate_limits[0].requests: must be from 1 to 1000000",
    ),
    (
        "auth: none",
        "auth: none\n    rate_limits: [{ by: route, requests: 1, per: 0s }]",
        "20:45: routes[0].rate_limits[0].per: must be from 1ms to 1d",
    ),
    (
        "auth: none",
        "auth: none\n    rate_limits: [{ by: route, requests: 1, burst: 0 }]",
        "20:45: routes[0].rate_limits[0].burst: must be from 1 to 1000000",
    ),
    (
        "auth: none",
        "auth: none\n    rate_limit: { by: route, requests: 1 }\n    rate_limits: []",
        "21:5: routes[0].rate_limits: give one of rate_limit and rate_limits, not both",
    ),
];

#[test]
fn each_fault_is_said_in_its_place() {
    let folder = Folder::new();
    for (good, bad, expected) in WRONG {
        assert!(BASE.contains(good), "the case for {good:?} changes nothing");
        let file = folder.write("config.yaml", &BASE.replacen(good, bad, 1));
        assert_eq!(faults(&folder, &file), [*expected], "{bad:?}");
    }
}

#[test]
fn what_is_right_passes_without_a_warning() {
    let folder = Folder::new();
    let more = "auth: none
    max_body_bytes: none
    allow_paths: [encoded_slash, empty_segment, semicolon, backslash, double_encoding]
    rate_limits: [{ by: address, requests: 1, per: 1ms, burst: 1000000 }, { by: route, requests: 1000000, per: 1d }]";
    let yaml = BASE
        .replace("auth: none", more)
        .replace(
            "claim_headers:",
            "rate_limit: { by: subject, requests: 10 }\n    max_body_bytes: 0\n    claim_headers:",
        )
        .replace("limits: {", "limits: { max_connections_per_address: 1, max_body_bytes: 1GiB,");
    let file = folder.write("config.yaml", &yaml);
    let output = check(&folder, &file, &[]);
    assert_eq!((output.status.code(), text(&output.stderr)), (Some(0), String::new()));
}
