//! The layering of ARCHITECTURE.md: a room imports only rooms on lower floors. The code map there is the table that is
//! checked, so the page cannot say anything else than what holds.

use std::{
    collections::BTreeSet,
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
};

/// Rooms of one floor that may import one another all the same, with the reason. Only ever a room that the code map
/// lists further down, so that no circle can come of it.
const WITHIN_A_FLOOR: &[(&str, &str, &str)] = &[("main", "cli", "main hands its arguments to a subcommand")];

#[test]
fn rooms_import_only_rooms_on_lower_floors() {
    let map = CodeMap::read();
    let mut faults = String::new();
    for file in source_files() {
        let text = fs::read_to_string(root().join(&file)).unwrap();
        for import in imports(&file, &text) {
            if let Err(fault) = map.judge(&room_of(&file), &import.room) {
                writeln!(faults, "{}:{}: {fault}", file.display(), import.line).unwrap();
            }
        }
    }
    assert!(faults.is_empty(), "upward imports:\n{faults}");
}

#[test]
fn the_code_map_names_the_rooms_that_are_there() {
    let named: BTreeSet<String> = CodeMap::read().rooms.into_iter().map(|room| room.name).collect();
    let there: BTreeSet<String> =
        source_files().iter().map(|file| room_of(file)).filter(|room| room != "lib").collect();
    let missing: Vec<_> = there.difference(&named).collect();
    let gone: Vec<_> = named.difference(&there).collect();
    assert!(
        missing.is_empty() && gone.is_empty(),
        "ARCHITECTURE.md's code map: not in it {missing:?}; in it but not under src/ {gone:?}"
    );
}

#[test]
fn imports_are_found_in_every_spelling() {
    let text = r#"
        use crate::gateway::path::Path;
        use crate::{admin, token::{self, keys::KeySet}, server::{
            config, Listener }, types as words};
        // use crate::comment; /* crate::comment */
        /* use crate::block; /* nested */ use crate::block; */
        const S: &str = "crate::string \" crate::string"; const C: char = '"';
        fn f<'a>() -> crate::clock::Timestamp { $crate::telemetry::x(); crate :: store :: Y; }
        use super::super::issuer::Config; use super::sibling;
        pub(crate) fn g() {} use other_crate::http;
    "#;
    let found: Vec<String> = imports(Path::new("src/gateway/deep.rs"), text)
        .into_iter()
        .map(|import| format!("{}:{}", import.line, import.room))
        .collect();
    assert_eq!(
        found,
        ["2:gateway", "3:admin", "3:token", "3:server", "4:types", "8:clock", "8:telemetry", "8:store", "9:issuer"]
    );
    let main = imports(Path::new("src/main.rs"), "use sidegate::{app, cli::Args};");
    assert_eq!(main.iter().map(|import| import.room.as_str()).collect::<Vec<_>>(), ["app", "cli"]);
}

/// The table under "Code map" in ARCHITECTURE.md, top floor first.
struct CodeMap {
    rooms: Vec<Room>,
}

struct Room {
    name: String,
    floor: u32,
}

impl CodeMap {
    fn read() -> Self {
        let text = fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
        let table = text.split("\n## Code map\n").nth(1).expect("ARCHITECTURE.md has a section `Code map`");
        let section = table.split("\n## ").next().unwrap();
        let mut rooms = Vec::new();
        for row in section.lines().filter(|line| line.starts_with("| ")) {
            let cells: Vec<&str> = row.split('|').map(str::trim).collect();
            // The heading's first cell is no number.
            let Ok(floor) = cells[1].parse() else { continue };
            for name in cells[2].split(", ") {
                let name = name.trim_matches('`').trim_end_matches('/').trim_end_matches(".rs").to_owned();
                rooms.push(Room { name, floor });
            }
        }
        assert!(rooms.is_sorted_by(|above, below| above.floor >= below.floor), "the code map goes from the top down");
        assert!(!rooms.is_empty(), "the code map has rows of the form | floor | `room/` | … |");
        Self { rooms }
    }

    /// Whether `from` may import `to`; the error names both floors.
    fn judge(&self, from: &str, to: &str) -> Result<(), String> {
        // lib.rs lists the rooms, and a room is free within itself.
        if from == "lib" || from == to {
            return Ok(());
        }
        let (Some(above), Some(below)) = (self.position(from), self.position(to)) else {
            return Err(format!("`{from}` imports `{to}`, and ARCHITECTURE.md does not give both a floor"));
        };
        let (from_floor, to_floor) = (self.rooms[above].floor, self.rooms[below].floor);
        let excepted = WITHIN_A_FLOOR.iter().any(|(a, b, _)| (*a, *b) == (from, to));
        if to_floor < from_floor || (to_floor == from_floor && excepted && above < below) {
            return Ok(());
        }
        Err(format!("`{from}` on floor {from_floor} imports `{to}` on floor {to_floor}"))
    }

    fn position(&self, name: &str) -> Option<usize> {
        self.rooms.iter().position(|room| room.name == name)
    }
}

struct Import {
    room: String,
    line: usize,
}

/// The rooms that a file names: after `crate::`, after enough `super::` to reach the crate's root, and in the program,
/// which is a crate of its own, after `sidegate::`.
fn imports(file: &Path, text: &str) -> Vec<Import> {
    let tokens = tokens(text);
    let word = |at: usize| tokens.get(at).map_or("", |token| token.text.as_str());
    let path_sep = |at: usize| word(at) == ":" && word(at + 1) == ":";
    let mut found = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        let starts_a_path = at == 0 || word(at - 1) != ":";
        let mut next = at + 1;
        let reaches_the_root = match word(at) {
            "crate" => path_sep(next),
            "sidegate" => starts_a_path && path_sep(next),
            "super" if starts_a_path => {
                let mut levels = 1;
                while path_sep(next) && word(next + 2) == "super" {
                    levels += 1;
                    next += 3;
                }
                levels >= depth(file) && path_sep(next)
            }
            _ => false,
        };
        if reaches_the_root {
            let names = heads(&tokens, next + 2);
            found.extend(names.into_iter().map(|token| Import { room: token.text.clone(), line: token.line }));
        }
        at = next;
    }
    found
}

/// The first names of a path, or of each member of a `{…}` group, that starts at token `at`.
fn heads(tokens: &[Token], at: usize) -> Vec<&Token> {
    let Some(first) = tokens.get(at) else { return Vec::new() };
    if first.text != "{" {
        return vec![first];
    }
    let (mut found, mut level, mut expected) = (Vec::new(), 1, true);
    for token in &tokens[at + 1..] {
        match token.text.as_str() {
            "{" => level += 1,
            "}" => level -= 1,
            "," if level == 1 => expected = true,
            _ if level == 1 && expected => {
                found.push(token);
                expected = false;
            }
            _ => {}
        }
        if level == 0 {
            break;
        }
    }
    found
}

struct Token {
    text: String,
    line: usize,
}

/// Words and single marks of Rust source, without comments, strings and characters.
fn tokens(text: &str) -> Vec<Token> {
    let chars: Vec<char> = text.chars().collect();
    let at = |n: usize| chars.get(n).copied().unwrap_or('\0');
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let (mut found, mut n, mut line) = (Vec::new(), 0, 1);
    while n < chars.len() {
        let start = n;
        match at(n) {
            '/' if at(n + 1) == '/' => {
                while n < chars.len() && at(n) != '\n' {
                    n += 1;
                }
            }
            '/' if at(n + 1) == '*' => {
                let mut level = 0;
                loop {
                    match (at(n), at(n + 1)) {
                        ('/', '*') => (level, n) = (level + 1, n + 2),
                        ('*', '/') => (level, n) = (level - 1, n + 2),
                        _ => n += 1,
                    }
                    if level == 0 || n >= chars.len() {
                        break;
                    }
                }
            }
            // A raw string: r"…", r#"…"#, br#"…"#.
            'r' if at(n + 1) == '"' || (at(n + 1) == '#' && matches!(at(n + 2), '"' | '#')) => {
                let hashes = (n + 1..).take_while(|&n| at(n) == '#').count();
                n += hashes + 2;
                while n < chars.len() && !(at(n) == '"' && (1..=hashes).all(|k| at(n + k) == '#')) {
                    n += 1;
                }
                n += hashes + 1;
            }
            '"' => {
                n += 1;
                while n < chars.len() && at(n) != '"' {
                    n += if at(n) == '\\' { 2 } else { 1 };
                }
                n += 1;
            }
            // A character, and no lifetime: 'x' or '\…'.
            '\'' if at(n + 1) == '\\' => {
                n += 3;
                while n < chars.len() && at(n) != '\'' {
                    n += 1;
                }
                n += 1;
            }
            '\'' if at(n + 2) == '\'' => n += 3,
            c if is_word(c) => {
                while is_word(at(n)) {
                    n += 1;
                }
                found.push(Token { text: chars[start..n].iter().collect(), line });
            }
            c => {
                n += 1;
                if !c.is_whitespace() {
                    found.push(Token { text: c.to_string(), line });
                }
            }
        }
        n = n.min(chars.len());
        line += chars[start..n].iter().filter(|&&c| c == '\n').count();
    }
    found
}

/// How many modules deep a file is: 1 for src/clock.rs and src/token/mod.rs, 2 for src/token/keys.rs.
fn depth(file: &Path) -> usize {
    let names = file.components().count() - 1;
    if file.ends_with("mod.rs") { names - 1 } else { names }
}

/// The room a file belongs to: what stands directly under src/.
fn room_of(file: &Path) -> String {
    let first = file.iter().nth(1).unwrap();
    Path::new(first).file_stem().unwrap().to_str().unwrap().to_owned()
}

/// Every Rust file under src/, relative to the crate.
fn source_files() -> Vec<PathBuf> {
    let (mut files, mut folders) = (Vec::new(), vec![root().join("src")]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|ext| ext == "rs") {
                files.push(path.strip_prefix(root()).unwrap().to_owned());
            }
        }
    }
    assert!(!files.is_empty());
    files.sort();
    files
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}
