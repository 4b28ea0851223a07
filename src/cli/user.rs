//! `sidegate user`: the users of a file. No process has to run for it; one that does takes the file up by itself.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use serde_json::{Map, Value};

use super::{FAILED, WRONG, check::listing, end, hash_password::hash_of_input, say};
use crate::{
    config::users::{self, Change, EditError},
    issuer::User,
};

/// What to do with them.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
    /// The file of users; `add` makes it where there is none
    #[arg(long, global = true, value_name = "FILE", conflicts_with = "config")]
    file: Option<PathBuf>,
    /// The configuration that names the file (`issuer.users.file`) [default: config.yaml]
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Add a user; the password comes from the terminal, or as a line on standard input
    Add {
        /// What they type to log in
        name: String,
        /// The `sub` of their tokens [default: the name]
        #[arg(long)]
        subject: Option<String>,
        /// What their tokens say besides; VALUE is JSON where it reads as such, and text otherwise. May be given again
        #[arg(long = "claim", value_name = "NAME=VALUE", value_parser = claim)]
        claims: Vec<(String, Value)>,
    },
    /// Give a user another password; comments within their entry are not kept
    Passwd {
        /// Their name
        name: String,
    },
    /// Have a user neither log in nor refresh, and end their sessions; comments within their entry are not kept
    Disable {
        /// Their name
        name: String,
    },
    /// Let a user in again; comments within their entry are not kept
    Enable {
        /// Their name
        name: String,
    },
    /// Take a user out of the file, and end their sessions
    Remove {
        /// Their name
        name: String,
    },
    /// Name the users, with their subjects and claims
    List,
}

/// Does it: 0 when it is done, 1 when it cannot be, 2 when the file, the configuration or the arguments are wrong.
pub fn main(args: &Args) -> ExitCode {
    attempt(args).unwrap_or_else(|code| code)
}

/// What is wrong has been said where there is only an exit code.
fn attempt(args: &Args) -> Result<ExitCode, ExitCode> {
    let path = match (&args.file, &args.config) {
        (Some(file), _) => file.clone(),
        (None, config) => {
            let config = config.as_deref().unwrap_or(Path::new("config.yaml"));
            users::named_by(config).map_err(|errors| end(WRONG, listing(&errors)))?
        }
    };
    let change = |name: &str, change: &Change, done: &str| {
        users::change(&path, name, change).map_err(complaint)?;
        say(format_args!("{name} {done}"));
        Ok(ExitCode::SUCCESS)
    };
    match &args.command {
        Command::Add { name, subject, claims } => {
            let claims = distinct(claims).map_err(|why| end(WRONG, why))?;
            // Before somebody types a password for nothing.
            users::check(&path, name, true).map_err(complaint)?;
            let add = Change::Add { hash: hash_of_input()?, subject: subject.clone(), claims };
            change(name, &add, &format!("is added to {}", path.display()))
        }
        Command::Passwd { name } => {
            users::check(&path, name, false).map_err(complaint)?;
            change(name, &Change::SetPassword(hash_of_input()?), "has another password")
        }
        Command::Disable { name } => change(name, &Change::Disable, "is disabled"),
        Command::Enable { name } => change(name, &Change::Enable, "is enabled"),
        Command::Remove { name } => change(name, &Change::Remove, &format!("is removed from {}", path.display())),
        Command::List => {
            let users = users::load(&path).map_err(|errors| end(WRONG, listing(&errors)))?;
            say(table(&users));
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn complaint(error: EditError) -> ExitCode {
    match error {
        EditError::Wrong(errors) => end(WRONG, listing(&errors)),
        EditError::Refused(why) => end(WRONG, format_args!("sidegate: {why}")),
        EditError::Io { .. } => end(FAILED, format_args!("sidegate: {error}")),
    }
}

fn claim(text: &str) -> Result<(String, Value), &'static str> {
    match text.split_once('=') {
        Some(("", _)) => Err("a claim needs a name"),
        Some((name, value)) => {
            Ok((name.to_owned(), serde_json::from_str(value).unwrap_or_else(|_| Value::String(value.to_owned()))))
        }
        None => Err("a claim is written NAME=VALUE"),
    }
}

fn distinct(claims: &[(String, Value)]) -> Result<Map<String, Value>, String> {
    let mut map = Map::new();
    for (name, value) in claims {
        if map.insert(name.clone(), value.clone()).is_some() {
            return Err(format!(
                "sidegate: the claim {name:?} is given twice; several values are a list: '{name}=[\"a\",\"b\"]'"
            ));
        }
    }
    Ok(map)
}

/// A line for each, without the hash.
fn table(users: &[User]) -> String {
    if users.is_empty() {
        return "there are no users".into();
    }
    let width = |column: fn(&User) -> &str| users.iter().map(|user| column(user).len()).max().unwrap_or_default();
    let (names, subjects) = (width(|user| &user.username), width(|user| user.subject.as_str()));
    let lines = users.iter().map(|user| {
        let state = if user.disabled { "disabled" } else { "active" };
        let claims =
            if user.claims.is_empty() { String::new() } else { Value::Object(user.claims.clone()).to_string() };
        let line = format!("{:names$}  {:subjects$}  {state:8}  {claims}", user.username, user.subject.as_str());
        line.trim_end().to_owned()
    });
    lines.collect::<Vec<_>>().join("\n")
}
