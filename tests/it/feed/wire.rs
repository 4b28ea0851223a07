//! The lines of the feed, as they are on the wire.

use sidegate::{
    clock::Timestamp,
    revocation::wire::{Beat, Hello, Line, WireEntry},
    store::{Revocation, Revoked},
    types::{IssuerUrl, Position},
};

use super::*;

fn written(line: &Line) -> Vec<u8> {
    let mut out = Vec::new();
    line.write(&mut out);
    assert_eq!(out.pop(), Some(b'\n'));
    assert!(!out.contains(&b'\n'));
    out
}

#[test]
fn every_line_comes_back_and_no_damaged_one_does() {
    let issuer = IssuerUrl::new("http://localhost:3000");
    let revocation = Revocation {
        number: 7,
        at: Timestamp(1_800_000_000_000),
        issuer: Some(IssuerUrl::new("https://else\u{2028}where.example/\"\n")),
        what: Revoked::Subject("ali\"ce\n\u{0}é".into()),
        until: Timestamp(1_800_000_300_000),
        refresh_until: Timestamp(0),
        lifts: true,
        reason: "not sent".into(),
    };
    let lines = [
        Line::Hello(Hello::new(issuer.clone(), Position { life: u64::MAX, number: 3 }, 5, Timestamp(9))),
        Line::Entry(WireEntry::of(6, &revocation)),
        Line::Entry(WireEntry::of(6, &Revocation { what: Revoked::Everything, issuer: None, ..revocation.clone() })),
        Line::Beat(Beat { prev: 7, n: 9, clock: 77 }),
    ];
    for line in &lines {
        let text = written(line);
        assert_eq!(Line::read(&text).as_ref(), Some(line));
        assert!(!String::from_utf8_lossy(&text).contains("not sent"));
        for at in 0..text.len() {
            let mut damaged = text.clone();
            damaged[at] ^= 1;
            assert_eq!(Line::read(&damaged), None, "{}", String::from_utf8_lossy(&damaged));
        }
        for cut in 0..text.len() {
            assert_eq!(Line::read(&text[..cut]), None);
        }
    }
    let Line::Hello(hello) = &lines[0] else { unreachable!() };
    assert_eq!(hello.position(), Some(Position { life: u64::MAX, number: 3 }));
    let Line::Entry(entry) = Line::read(&written(&lines[1])).unwrap() else { unreachable!() };
    let entry = entry.entry(&issuer, 12).unwrap();
    assert_eq!((entry.life, entry.by_position, entry.lifts, &entry.what), (12, false, true, &revocation.what));
}

/// The lines of the feed after `after`, up to the first beat.
fn listen(gateway: &Sidegate, after: &str) -> Vec<Line> {
    let mut stream = TcpStream::connect(gateway.address()).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    write!(stream, "GET {PATH}{after} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {CREDENTIAL}\r\n\r\n").unwrap();
    let mut text = String::new();
    while !text.contains("{\"beat\":") || !text.ends_with("\r\n") {
        let mut piece = [0; 4096];
        let read = stream.read(&mut piece).unwrap();
        assert!(read > 0, "{text}");
        text.push_str(std::str::from_utf8(&piece[..read]).unwrap());
    }
    for header in
        ["content-type: application/x-ndjson", "cache-control: no-store, no-transform", "x-accel-buffering: no"]
    {
        assert!(text.contains(header), "{text}");
    }
    text.lines()
        .filter(|line| line.contains(" {\""))
        .map(|line| Line::read(line.trim_end().as_bytes()).unwrap())
        .collect()
}

fn numbers(lines: &[Line]) -> Vec<(u64, u64)> {
    lines
        .iter()
        .filter_map(|line| if let Line::Entry(entry) = line { Some((entry.prev, entry.n)) } else { None })
        .collect()
}

#[test]
fn a_feed_begins_where_it_is_asked_to_if_that_makes_sense() {
    let gateway = gateway();
    for n in 0..5 {
        revoke(&gateway, "token", Some(&format!("jti-{n}")));
    }
    let all = listen(&gateway, "");
    let Line::Hello(hello) = &all[0] else { panic!("{all:?}") };
    let life = hello.position().unwrap().life;
    assert_eq!(numbers(&all), [(0, 1), (1, 2), (2, 3), (3, 4), (4, 5)]);
    let Some(Line::Beat(beat)) = all.last() else { panic!("{all:?}") };
    assert_eq!((beat.prev, beat.n), (5, 5));
    assert_eq!(numbers(&listen(&gateway, &format!("?after={life:x}.3"))), [(3, 4), (4, 5)]);
    assert_eq!(numbers(&listen(&gateway, &format!("?after={life:x}.5"))), []);
    // From further on than the log has got, of another life, or nonsense: all of it.
    for after in
        [format!("{life:x}.6"), format!("{:x}.3", life + 1), format!("{:x}.3", life - 1), "x".into(), String::new()]
    {
        assert_eq!(numbers(&listen(&gateway, &format!("?after={after}"))).len(), 5, "{after}");
    }
    // After a restart memory has none of it, and the store has.
    let gateway = gateway_in(gateway.kill());
    assert_eq!(numbers(&listen(&gateway, &format!("?after={life:x}.3"))), [(3, 4), (4, 5)]);
    revoke(&gateway, "token", Some("jti-6"));
    assert_eq!(numbers(&listen(&gateway, &format!("?after={life:x}.4"))), [(4, 5), (5, 6)]);
    assert_eq!(numbers(&listen(&gateway, "")).len(), 6);
}
