//! What Redis carries out in one step: a script for each change. Each of them can be asked for again when an answer was
//! lost, and does nothing twice.

use std::{fmt::Write as _, sync::LazyLock};

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use redis::Cmd;

/// Declares the scripts: each has a file of its name.
macro_rules! scripts {
    ($($name:ident: $file:literal,)*) => {
        #[derive(Clone, Copy, Debug)]
        pub(super) enum Script { $($name,)* }

        /// All of them, to be loaded into a server.
        pub(super) const ALL: &[Script] = &[$(Script::$name,)*];

        const TEXTS: &[&str] = &[$(include_str!(concat!("scripts/", $file, ".lua")),)*];
    };
}

scripts! {
    Append: "append",
    Forget: "forget",
    Greatest: "greatest",
    Keep: "keep",
    Mark: "mark",
    Open: "open",
    Replace: "replace",
    Swap: "swap",
    Sweep: "sweep",
    Take: "take",
}

/// What a script is called by: the SHA-1 of its text, as Redis has it.
static NAMES: LazyLock<Vec<String>> = LazyLock::new(|| TEXTS.iter().map(|text| name(text)).collect());

impl Script {
    pub(super) fn text(self) -> &'static str {
        TEXTS[self as usize]
    }

    /// The command that runs it upon `keys`; its arguments are to follow.
    pub(super) fn on(self, keys: &[&[u8]]) -> Cmd {
        let mut command = redis::cmd("EVALSHA");
        command.arg(&NAMES[self as usize]).arg(keys.len()).arg(keys);
        command
    }
}

fn name(text: &str) -> String {
    let digest = digest(&SHA1_FOR_LEGACY_USE_ONLY, text.as_bytes());
    digest.as_ref().iter().fold(String::with_capacity(40), |mut name, byte| {
        let _ = write!(name, "{byte:02x}");
        name
    })
}
