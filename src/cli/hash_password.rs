//! `sidegate hash-password`.

use std::{
    io::{self, BufRead as _, IsTerminal as _, Read as _, Write as _},
    process::ExitCode,
};

use argon2::{Argon2, PasswordHasher as _};
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};
use zeroize::Zeroizing;

use super::{
    FAILED, WRONG, end, say,
    secret::{generate, sha256},
};

/// How to hash.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Make a random client secret instead of reading one
    #[arg(long)]
    generate: bool,
}

/// The longest password that is read, in bytes: more than anybody types.
const MAX_PASSWORD: u64 = 1024;

/// Prints a password's hash, or a new secret and its hash.
pub fn main(args: &Args) -> ExitCode {
    if args.generate {
        return match generate() {
            Ok(secret) => {
                say(format_args!("secret: {}", *secret));
                say(format_args!("secret_hash: {}", sha256(&secret)));
                ExitCode::SUCCESS
            }
            Err(why) => end(FAILED, format_args!("sidegate: {why}")),
        };
    }
    match hash_of_input() {
        Ok(hash) => {
            say(hash);
            ExitCode::SUCCESS
        }
        Err(code) => code,
    }
}

/// The hash of the password that is typed, or comes on standard input; the exit code where there is none, which has been said
/// then.
pub(super) fn hash_of_input() -> Result<String, ExitCode> {
    let password = match if io::stdin().is_terminal() { ask() } else { read() } {
        Ok(password) => password,
        Err(Refused::Input(why)) => return Err(end(WRONG, format_args!("sidegate: {why}"))),
        Err(Refused::Io(error)) => {
            return Err(end(FAILED, format_args!("sidegate: the password cannot be read: {error}")));
        }
    };
    // The default is Argon2id, version 19, m=19456, t=2, p=1 (OWASP's first recommendation), with a fresh salt.
    match Argon2::default().hash_password(password.as_bytes()) {
        Ok(hash) => Ok(hash.to_string()),
        Err(error) => Err(end(FAILED, format_args!("sidegate: the password cannot be hashed: {error}"))),
    }
}

enum Refused {
    Input(&'static str),
    Io(io::Error),
}

impl From<io::Error> for Refused {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

type Password = Zeroizing<String>;

/// Asks twice on the terminal, without echo.
fn ask() -> Result<Password, Refused> {
    let quiet = Quiet::begin()?;
    let first = prompt("Password: ")?;
    let second = prompt("The same again: ")?;
    drop(quiet);
    if *first != *second {
        return Err(Refused::Input("the two passwords differ"));
    }
    Ok(first)
}

fn prompt(text: &str) -> Result<Password, Refused> {
    let mut err = io::stderr();
    write!(err, "{text}")?;
    err.flush()?;
    let line = line(&mut io::stdin().lock())?;
    // The newline that was typed has not been echoed either.
    writeln!(err)?;
    Ok(line)
}

/// Reads all of standard input; one newline at its end is cut off.
fn read() -> Result<Password, Refused> {
    let mut stdin = io::stdin().lock();
    let password = line(&mut stdin)?;
    if stdin.read(&mut [0])? != 0 {
        return Err(Refused::Input("a password is one line"));
    }
    Ok(password)
}

fn line(from: &mut impl io::BufRead) -> Result<Password, Refused> {
    let mut bytes = Zeroizing::new(Vec::with_capacity(MAX_PASSWORD as usize + 2));
    from.take(MAX_PASSWORD + 2).read_until(b'\n', &mut bytes)?;
    let line = bytes.strip_suffix(b"\n").unwrap_or(&bytes);
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    if line.is_empty() {
        return Err(Refused::Input("the password is empty"));
    }
    if line.len() as u64 > MAX_PASSWORD {
        return Err(Refused::Input("the password is longer than 1024 bytes"));
    }
    match std::str::from_utf8(line) {
        Ok(text) => Ok(Zeroizing::new(text.into())),
        Err(_) => Err(Refused::Input("the password is not UTF-8, so that no login form could send it")),
    }
}

/// A terminal that does not show what is typed, until this is dropped.
struct Quiet(Termios);

impl Quiet {
    fn begin() -> io::Result<Self> {
        let before = tcgetattr(io::stdin())?;
        let mut quiet = before.clone();
        quiet.local_modes.remove(LocalModes::ECHO);
        tcsetattr(io::stdin(), OptionalActions::Flush, &quiet)?;
        Ok(Self(before))
    }
}

impl Drop for Quiet {
    fn drop(&mut self) {
        // Nothing is left to be done about a terminal that has gone.
        let _ = tcsetattr(io::stdin(), OptionalActions::Flush, &self.0);
    }
}
