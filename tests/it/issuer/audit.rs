//! What the issuer writes into the audit log, on a simulated clock.

use std::fs;

use sidegate::telemetry::audit::{Destination, Keeper};

use super::*;

/// An issuer that starts on what is in a folder, and writes down what it decides.
async fn audited(folder: TempDir, hand: Arc<AtomicU64>, config: Config) -> (Rig, Keeper) {
    let (revocations, metrics): (Arc<Revocations>, _) = (Arc::default(), Metrics::new().unwrap());
    let clock = Clock::Simulated(hand.clone());
    let to = Destination::File(folder.path().join("audit.log"));
    let (audit, keeper) = Audit::start(&to, clock.clone(), metrics.clone()).unwrap();
    let issuer = Issuer::open(config.clone(), clock, revocations.clone(), metrics.clone(), audit).await.unwrap();
    (Rig { folder, hand, config, revocations, metrics, issuer }, keeper)
}

/// Starts it anew, does something, and answers what was written meanwhile, less what every start does again.
pub(super) async fn written(rig: Rig, act: impl AsyncFnOnce(&mut Rig)) -> (Rig, Vec<Value>) {
    let Rig { folder, hand, config, issuer, .. } = rig;
    drop(issuer);
    let (mut rig, keeper) = audited(folder, hand, config).await;
    act(&mut rig).await;
    let lines = lines_of(keeper, &rig);
    (rig, lines)
}

/// What has been written, as soon as that is all.
fn lines_of(keeper: Keeper, rig: &Rig) -> Vec<Value> {
    drop(keeper);
    let path = rig.folder.path().join("audit.log");
    let text = fs::read_to_string(&path).unwrap();
    fs::remove_file(path).unwrap();
    assert!(text.is_empty() || text.ends_with('\n'));
    let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    lines.filter(|line| line["cause"] != "disabled").collect()
}

fn names(lines: &[Value]) -> Vec<String> {
    lines
        .iter()
        .map(|line| format!("{} {}", line["event"].as_str().unwrap(), line["outcome"].as_str().unwrap()))
        .collect()
}

#[track_caller]
fn assert_members(line: &Value, expected: &Value) {
    for (name, value) in expected.as_object().unwrap() {
        assert_eq!(&line[name], value, "{name} of {line}");
    }
}

fn from(request: http::request::Builder, body: &str) -> Request<Bytes> {
    let agent = header::HeaderValue::from_static("curl \"8\"");
    let headers = [(header::USER_AGENT, agent)].into_iter().collect();
    let visitor = sidegate::types::Visitor::new([192, 0, 2, 7].into(), &headers);
    let form = request.header(header::CONTENT_TYPE, "application/x-www-form-urlencoded").extension(visitor);
    form.body(Bytes::copy_from_slice(body.as_bytes())).unwrap()
}

#[tokio::test]
async fn a_login_says_who_from_where_and_what_came_of_it() {
    let (mut sid, mut kid, mut jti) = (String::new(), Value::Null, Value::Null);
    let (_, lines) = written(Rig::new().await, async |rig| {
        let request = from(Request::post("/oauth/token").header(header::AUTHORIZATION, app()), LOGIN);
        let tokens = rig.send(request).await.tokens();
        sid = tokens.sid();
        (kid, jti) = (part(&tokens.access, 0)["kid"].clone(), claims(&tokens.access)["jti"].clone());
        rig.pass(SECOND);
        for (username, password) in [("alice", "open+wide"), ("open+sesame", "x"), ("mallory", "open+sesame")] {
            let form = format!("grant_type=password&username={username}&password={password}");
            rig.token(Some(&app()), &form).await.assert_error(400, "invalid_grant");
        }
    })
    .await;
    assert_eq!(
        names(&lines),
        ["login ok", "session opened", "token issued", "login failed", "login failed", "login failed"]
    );
    let from = json!({ "address": "192.0.2.7", "agent": "curl \"8\"", "time": "2027-01-15T08:00:00.000Z" });
    lines[..3].iter().for_each(|line| assert_members(line, &from));
    assert_members(
        &lines[0],
        &json!({ "client": "app", "subject": "user-alice", "username": "alice", "error": null, "session": null }),
    );
    let opened = json!({ "client": "app", "subject": "user-alice", "session": sid, "scope": "read write" });
    assert_members(&lines[1], &opened);
    assert_members(&lines[2], &opened);
    assert_members(&lines[2], &json!({ "grant": "password", "kid": kid, "jti": jti }));
    for (line, subject, reason) in [
        (&lines[3], json!("user-alice"), "wrong_password"),
        (&lines[4], Value::Null, "unknown_user"),
        (&lines[5], json!("user-mallory"), "disabled"),
    ] {
        let failed = json!({
            "subject": subject, "reason": reason, "error": "invalid_grant", "client": "app", "username": null,
            "time": "2027-01-15T08:00:01.000Z",
        });
        assert_members(line, &failed);
        // What was typed as a name may be a password.
        assert!(!line.to_string().contains("sesame"), "{line}");
    }
}

#[tokio::test]
async fn a_login_that_comes_too_early_is_told_without_what_was_typed() {
    let (_, lines) = written(Rig::new().await, async |rig| {
        for username in ["alice", "open+sesame"] {
            for _ in 0..6 {
                let form = format!("grant_type=password&username={username}&password=hunter2");
                rig.send(from(Request::post("/oauth/token").header(header::AUTHORIZATION, app()), &form)).await;
            }
        }
        for _ in 0..6 {
            let request = Request::post("/oauth/token").header(header::AUTHORIZATION, basic("odd id&=", "hunter2"));
            rig.send(from(request, "grant_type=client_credentials")).await;
        }
    })
    .await;
    let throttled: Vec<_> = lines.iter().filter(|line| line["reason"] == "throttled").collect();
    let (early, from) = (json!({ "error": "temporarily_unavailable" }), json!({ "address": "192.0.2.7" }));
    for (line, own) in throttled.iter().zip([
        json!({ "event": "login", "outcome": "failed", "client": "app", "subject": "user-alice", "username": null }),
        json!({ "event": "login", "outcome": "failed", "client": "app", "subject": null, "username": null }),
        json!({ "event": "client_authentication", "outcome": "failed", "client": "odd id&=" }),
    ]) {
        [&early, &from, &own].into_iter().for_each(|members| assert_members(line, members));
    }
    assert_eq!((throttled.len(), lines.len()), (3, 18));
    assert!(lines.iter().all(|line| !line.to_string().contains("hunter2") && !line.to_string().contains("sesame")));
}

#[tokio::test]
async fn each_way_a_refresh_can_go_is_told() {
    let rig = Rig::new().await;
    let mut old = rig.log_in_publicly().await;
    let stays = rig.log_in().await;
    let (rig, lines) = written(rig, async |rig| {
        let live = rig.refresh_publicly(&old.refresh).await.tokens();
        rig.refresh_publicly(&old.refresh).await.tokens();
        rig.pass(61 * SECOND);
        rig.refresh_publicly(&old.refresh).await.assert_error(400, "invalid_grant");
        rig.refresh_publicly(&live.refresh).await.assert_error(400, "invalid_grant");
        rig.refresh_publicly(&stays.refresh).await.assert_error(400, "invalid_grant");
        rig.ban("client", "app").await.unwrap();
        rig.refresh(&stays.refresh).await.assert_error(400, "invalid_grant");
        old = rig.log_in().await;
        rig.pass(15 * DAY);
        rig.refresh(&old.refresh).await.assert_error(400, "invalid_grant");
    })
    .await;
    let expected = [
        "refresh rotated",
        "token issued",
        "refresh replayed",
        "token issued",
        "revocation made",
        "refresh reused",
        "refresh blacklisted",
        "refresh forged",
        "revocation made",
        "refresh logged_out",
        "login ok",
        "session opened",
        "token issued",
        "refresh expired",
    ];
    assert_eq!(names(&lines), expected);
    let sid = claims(&stays.access)["sid"].clone();
    assert_members(&lines[0], &json!({ "client": "spa", "subject": "user-alice", "generation": 0, "error": null }));
    assert_members(&lines[1], &json!({ "grant": "refresh_token", "session": lines[0]["session"] }));
    assert_members(&lines[4], &json!({ "cause": "reuse", "kind": "session", "session": lines[0]["session"] }));
    assert_members(&lines[5], &json!({ "number": lines[4]["number"], "generation": 0, "error": "invalid_grant" }));
    assert_members(&lines[7], &json!({ "client": "spa", "session": null, "generation": null }));
    assert_members(&lines[8], &json!({ "kind": "client", "id": "app", "cause": "admin_api", "reason": "a test" }));
    assert_members(&lines[9], &json!({ "client": "app", "session": sid, "error": "invalid_grant" }));

    // Its user is gone; then the store has lost a rotation; then it has lost everything.
    let tokens = rig.log_in().await;
    let (rig, lines) = written(
        rig.restarted(|config| {
            config.users.retain(|user| &*user.username != "alice");
        })
        .await,
        async |rig| rig.refresh(&tokens.refresh).await.assert_error(400, "invalid_grant"),
    )
    .await;
    assert_eq!(names(&lines), ["revocation made", "refresh user_gone"]);
    assert_members(&lines[0], &json!({ "cause": "user_gone", "subject": "user-alice", "session": tokens.sid() }));
    assert_members(&lines[1], &json!({ "number": lines[0]["number"], "subject": "user-alice" }));

    let rig = rig.restarted(|config| config.users = super::config(Path::new("")).users).await;
    let first = rig.log_in().await;
    let store = rig.config.data.join("store.redb");
    let Rig { folder, hand, config, issuer, .. } = rig;
    drop(issuer);
    let backup = fs::read(&store).unwrap();
    let rig = Rig::opened(folder, hand, config).await;
    let second = rig.refresh(&first.refresh).await.tokens();
    let third = rig.refresh(&second.refresh).await.tokens();
    let rig = rig.restarted(|_| fs::write(&store, backup).unwrap()).await;
    let (rig, lines) =
        written(rig, async |rig| rig.refresh(&third.refresh).await.assert_error(400, "invalid_grant")).await;
    assert_eq!(names(&lines), ["revocation made", "refresh rolled_back"]);
    assert_members(&lines[1], &json!({ "number": lines[0]["number"], "generation": 2, "session": third.sid() }));
    let rig = rig.restarted(|_| fs::remove_file(&store).unwrap()).await;
    let (_, lines) =
        written(rig, async |rig| rig.refresh(&third.refresh).await.assert_error(400, "invalid_grant")).await;
    assert_eq!(names(&lines), ["refresh unknown"]);
}

#[tokio::test]
async fn who_ends_and_lifts_what_is_told() {
    let rig = Rig::with(|config| config.refresh_token.max_sessions = Some(1)).await;
    let first = rig.log_in().await;
    let (_, lines) = written(rig, async |rig| {
        rig.pass(SECOND);
        let second = rig.log_in().await;
        let form = format!("token={}", second.refresh);
        assert_eq!(rig.post("/oauth/revoke", Some(&app()), &form).await.status(), 200);
        // Once is enough.
        assert_eq!(rig.post("/oauth/revoke", Some(&app()), &form).await.status(), 200);
        let third = rig.log_in_publicly().await;
        rig.post("/oauth/revoke", Some(&app()), &format!("token={}", third.refresh))
            .await
            .assert_error(400, "invalid_request");
        let number = rig.ban("subject", "user-alice").await.unwrap().number;
        rig.issuer.lift(number, "found", sidegate::issuer::By::command(1000)).await.unwrap();
    })
    .await;
    let lines: Vec<_> = lines.into_iter().filter(|line| line["event"] == "revocation").collect();
    assert_eq!(
        names(&lines),
        ["revocation made", "revocation made", "revocation refused", "revocation made", "revocation lifted"]
    );
    let too_many = json!({ "cause": "too_many", "kind": "session", "session": first.sid(), "subject": "user-alice" });
    assert_members(&lines[0], &too_many);
    assert_members(&lines[1], &json!({ "cause": "revoke_endpoint", "kind": "session", "client": "app" }));
    assert_members(&lines[2], &json!({ "error": "invalid_request", "client": "app" }));
    assert_members(&lines[3], &json!({ "cause": "admin_api", "kind": "subject", "id": "user-alice", "uid": null }));
    let lifted = json!({ "cause": "command", "uid": 1000, "reason": "found", "kind": "subject" });
    assert_members(&lines[4], &lifted);
    assert_eq!(lines[4]["number"].as_u64().unwrap(), lines[3]["number"].as_u64().unwrap() + 1);
}

#[tokio::test]
async fn who_gets_nothing_is_told_with_why() {
    let rig = Rig::with(|config| config.clients[5].disabled = true).await;
    let (rig, lines) = written(rig, async |rig| {
        for (id, secret) in [("app", "wrong"), ("open sesame", "secret"), ("plain", "generated")] {
            rig.token(Some(&basic(id, secret)), LOGIN).await;
        }
        rig.token(None, LOGIN).await.assert_error(401, "invalid_client");
        rig.token(Some(&svc()), LOGIN).await.assert_error(400, "unauthorized_client");
        rig.token(Some(&svc()), "grant_type=client_credentials&scope=root").await.assert_error(400, "invalid_scope");
        rig.token(Some(&svc()), "grant_type=guess").await.assert_error(400, "unsupported_grant_type");
        let own = rig.token(Some(&svc()), "grant_type=client_credentials").await.tokens();
        let form = format!("token={}&client_id=spa", own.access);
        rig.post("/oauth/introspect", None, &form).await.assert_error(401, "invalid_client");
    })
    .await;
    let told: Vec<_> = lines.iter().map(|line| (&line["client"], &line["error"], &line["reason"])).collect();
    let (none, wrong, invalid) = (json!(null), json!("wrong_secret"), json!("invalid_client"));
    assert_eq!(told[0], (&json!("app"), &invalid, &wrong));
    assert_eq!(told[1], (&none, &invalid, &json!("unknown_client")));
    assert_eq!(told[2], (&json!("plain"), &invalid, &json!("disabled")));
    assert_eq!(told[3], (&none, &invalid, &json!("unknown_client")));
    assert_eq!((told[4].0, told[4].1), (&json!("svc"), &json!("unauthorized_client")));
    assert_eq!((told[5].0, told[5].1), (&json!("svc"), &json!("invalid_scope")));
    assert_eq!((told[6].0, told[6].1), (&json!("svc"), &json!("unsupported_grant_type")));
    assert_eq!(told[8], (&json!("spa"), &invalid, &json!("public")));
    let refused = ["client_authentication failed"; 4].into_iter().chain(["token refused"; 3]).chain(["token issued"]);
    let refused = refused.chain(["client_authentication failed"]);
    assert_eq!(names(&lines), refused.collect::<Vec<_>>());
    assert_members(&lines[7], &json!({ "subject": "client:svc", "grant": "client_credentials", "session": null }));

    // A store that fails.
    let tokens = rig.log_in().await;
    let Rig { folder, hand, config, issuer, .. } = rig;
    drop(issuer);
    let database = redb::Database::open(config.data.join("store.redb")).unwrap();
    let transaction = database.begin_write().unwrap();
    let id: [u8; 16] = URL_SAFE_NO_PAD.decode(tokens.sid()).unwrap().try_into().unwrap();
    let sessions = redb::TableDefinition::<&[u8; 16], &[u8]>::new("sessions");
    transaction.open_table(sessions).unwrap().insert(&id, [0].as_slice()).unwrap();
    transaction.commit().unwrap();
    drop(database);
    let rig = Rig::opened(folder, hand, config).await;
    let (_, lines) =
        written(rig, async |rig| rig.refresh(&tokens.refresh).await.assert_error(503, "temporarily_unavailable")).await;
    let refused = json!({ "client": "app", "grant": "refresh_token", "error": "temporarily_unavailable" });
    assert_eq!(names(&lines), ["token refused"]);
    assert_members(&lines[0], &refused);
    assert_eq!(lines[0]["reason"], "store_unavailable");
}

#[tokio::test]
async fn keys_are_told_of_with_what_changed_them() {
    let rig = Rig::with(|config| config.keys.rotate_every = Some(10 * DAY)).await;
    let told = async |rig, act: fn(&mut Rig)| {
        let (rig, lines) = written(rig, async |rig| act(rig)).await;
        let lines: Vec<_> = lines
            .iter()
            .map(|line| format!("{} {}", line["outcome"].as_str().unwrap(), line["cause"].as_str().unwrap()))
            .collect();
        (rig, lines)
    };
    let tend = |rig: &mut Rig| {
        rig.pass(DAY);
        rig.issuer.tend_keys();
    };
    let (rig, lines) = told(rig, |rig| {
        rig.pass(9 * DAY);
        rig.issuer.tend_keys();
    })
    .await;
    assert_eq!(lines, ["made time"]);
    let (rig, lines) = told(rig, tend).await;
    assert_eq!(lines, ["retired time", "activated time"]);
    let (rig, lines) = told(rig, tend).await;
    assert_eq!(lines, ["forgotten time"]);
    let (rig, lines) = told(rig, |rig| drop(rig.issuer.rotate_keys(true, Cause::Command).unwrap())).await;
    assert_eq!(lines, ["retired command", "made command", "activated command"]);
    let (rig, lines) = written(rig, async |rig| {
        let kid = part(&rig.log_in().await.access, 0)["kid"].as_str().unwrap().to_owned();
        rig.ban("key", &kid).await.unwrap();
    })
    .await;
    let lines = &lines[3..];
    assert_eq!(names(lines), ["signing_key revoked", "signing_key made", "signing_key activated", "revocation made"]);
    assert_members(&lines[0], &json!({ "cause": "admin_api", "kid": lines[3]["id"] }));
    // The first one there is.
    let Rig { folder, hand, config, issuer, .. } = rig;
    drop(issuer);
    fs::remove_dir_all(&config.data).unwrap();
    let (rig, keeper) = audited(folder, hand, config).await;
    let lines = lines_of(keeper, &rig);
    assert_eq!(names(&lines), ["signing_key made", "signing_key activated"]);
    assert_members(&lines[0], &json!({ "cause": "start" }));
}
