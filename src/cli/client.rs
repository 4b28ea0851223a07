//! `sidegate client`: what the configuration has to say of a new client, and new secrets. Nothing is written anywhere, and
//! nobody who runs is asked.

use std::{fmt::Display, path::PathBuf, process::ExitCode};

use aws_lc_rs::digest;
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};

use super::{
    FAILED, WRONG,
    ask::issuer_of,
    complain, end, say,
    secret::{generate, sha256},
};
use crate::{
    issuer::{GrantType, RedirectUri},
    types::{is_identifier, is_scope_token},
};

/// What to make.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Print a new client to paste under `issuer.clients`, and how it gets a token
    Add(Add),
    /// Make another secret for a client that has one, and print its hash
    Secret,
}

#[derive(Debug, clap::Args)]
struct Add {
    /// Its identifier
    #[arg(value_parser = name)]
    name: String,
    /// A grant that it may use, once for each [default: client_credentials; of a public one refresh_token; where browsers come
    /// back to it, authorization_code and refresh_token]
    #[arg(long = "grant", value_name = "GRANT", value_parser = grant)]
    grants: Vec<GrantType>,
    /// A scope that it may ask for, once for each
    #[arg(long = "scope", value_name = "SCOPE", value_parser = scope)]
    scopes: Vec<String>,
    /// Where browsers come back to it with a code, once for each
    #[arg(long = "redirect-uri", value_name = "URI", value_parser = redirect_uri)]
    redirect_uris: Vec<RedirectUri>,
    /// One that could keep no secret, in a browser or on a phone
    #[arg(long)]
    public: bool,
    /// It may send its users' passwords, which it gets to see. OAuth 2.1 drops this grant
    #[arg(long)]
    legacy_password_grant: bool,
    /// The configuration, which says where the issuer is and who is there already
    #[arg(long, default_value = "config.yaml", value_name = "FILE")]
    config: PathBuf,
    /// The issuer's URL, where its configuration is not at hand
    #[arg(long, conflicts_with = "config")]
    url: Option<String>,
}

/// Makes it: 0 when it is done, 2 when it or the configuration is wrong.
pub fn main(args: &Args) -> ExitCode {
    let made = match &args.command {
        Command::Add(add) => add.print(),
        Command::Secret => print_secret(),
    };
    made.map_or_else(|code| code, |()| ExitCode::SUCCESS)
}

/// Makes a secret to follow another one.
fn print_secret() -> Result<(), ExitCode> {
    let secret = generate().map_err(failed)?;
    say(quoted(&sha256(&secret)));
    show_once(&secret);
    complain(
        "The line above is its hash. Until the client has the new secret, both are good:\n  \
         secret_hashes: [<the hash of the old one>, <the new one>]\n\
         Start Sidegate anew, give the client its new secret, and take the old hash out.",
    );
    Ok(())
}

impl Add {
    /// What is to be pasted goes to standard output, and everything else to standard error.
    fn print(&self) -> Result<(), ExitCode> {
        let grants = self.grants();
        if self.public && grants.contains(&GrantType::ClientCredentials) {
            return Err(end(WRONG, "a public client has no credentials to be granted anything for"));
        }
        if grants.contains(&GrantType::AuthorizationCode) == self.redirect_uris.is_empty() {
            return Err(end(
                WRONG,
                "authorization_code and --redirect-uri go together: browsers come back there with a code",
            ));
        }
        let url = self.url()?;
        let secret = if self.public { None } else { Some(generate().map_err(failed)?) };
        say(format_args!("    - id: {}", quoted(&self.name)));
        if let Some(secret) = &secret {
            say(format_args!("      secret_hash: {}", quoted(&sha256(secret))));
        }
        if !grants.is_empty() {
            let names: Vec<_> = grants.iter().map(|grant| grant.name()).collect();
            say(format_args!("      grants: [{}]", names.join(", ")));
        }
        if !self.redirect_uris.is_empty() {
            let uris: Vec<_> = self.redirect_uris.iter().map(|uri| quoted(uri.as_str())).collect();
            say(format_args!("      redirect_uris: [{}]", uris.join(", ")));
        }
        if self.legacy_password_grant {
            say("      legacy_password_grant: true");
        }
        if !self.scopes.is_empty() {
            let scopes: Vec<_> = self.scopes.iter().map(|scope| quoted(scope)).collect();
            say(format_args!("      scopes: [{}]", scopes.join(", ")));
        }

        let client = match &secret {
            Some(secret) => {
                show_once(secret);
                format!("-u {}", in_shell(&format!("{}:{}", self.name, **secret)))
            }
            None => format!("--data-urlencode {}", in_shell(&format!("client_id={}", self.name))),
        };
        complain("Paste the lines above under `issuer.clients`, and start Sidegate anew. Then this gets a token:");
        let form = if let [there, ..] = &self.redirect_uris[..] {
            let verifier = generate().map_err(failed)?;
            let challenge = URL_SAFE_NO_PAD.encode(digest::digest(&digest::SHA256, verifier.as_bytes()));
            let mut ask = form_urlencoded::Serializer::new(String::new());
            ask.extend_pairs([("response_type", "code"), ("client_id", &self.name), ("redirect_uri", there.as_str())]);
            ask.extend_pairs([("code_challenge", &*challenge), ("code_challenge_method", "S256")]);
            complain(format_args!("  in a browser: {url}/oauth/authorize?{}", ask.finish()));
            complain("  which goes on to the redirect URI, with a code that is good for a minute; and then:");
            format!("-d grant_type=authorization_code -d code_verifier={} -d 'code=<code>'", *verifier)
        } else if grants.contains(&GrantType::ClientCredentials) {
            "-d grant_type=client_credentials".into()
        } else if self.legacy_password_grant {
            "-d grant_type=password --data-urlencode 'username=<user>' --data-urlencode 'password=<password>'".into()
        } else {
            "-d grant_type=refresh_token --data-urlencode 'refresh_token=<refresh token>'".into()
        };
        complain(format_args!("  curl {client} {form} {}", in_shell(&format!("{url}/oauth/token"))));
        Ok(())
    }

    fn grants(&self) -> Vec<GrantType> {
        match (&*self.grants, self.public) {
            ([], _) if self.legacy_password_grant => Vec::new(),
            ([], _) if !self.redirect_uris.is_empty() => vec![GrantType::AuthorizationCode, GrantType::RefreshToken],
            ([], true) => vec![GrantType::RefreshToken],
            ([], false) => vec![GrantType::ClientCredentials],
            (said, _) => said.to_vec(),
        }
    }

    /// Where the issuer is, once it is known that nobody there has the name.
    fn url(&self) -> Result<String, ExitCode> {
        if let Some(url) = &self.url {
            return Ok(url.trim_end_matches('/').into());
        }
        let issuer = issuer_of(&self.config)?;
        if issuer.clients.iter().any(|client| client.id.as_str() == self.name) {
            let file = self.config.display();
            return Err(end(WRONG, format_args!("{file}: there is a client {:?} already", self.name)));
        }
        Ok(issuer.url.to_string())
    }
}

fn show_once(secret: &str) {
    complain(format_args!("\nThe secret, which is kept nowhere and not shown again:\n  {secret}\n"));
}

fn failed(why: impl Display) -> ExitCode {
    end(FAILED, format_args!("sidegate: {why}"))
}

fn name(text: &str) -> Result<String, &'static str> {
    match text {
        _ if !is_identifier(text, 256) => Err("must be 1 to 256 printable ASCII characters"),
        _ if text.contains(':') => Err("must not hold a colon: HTTP Basic could not carry it"),
        _ => Ok(text.into()),
    }
}

fn grant(text: &str) -> Result<GrantType, &'static str> {
    match GrantType::parse(text) {
        Some(GrantType::Password) => Err("OAuth 2.1 drops this grant; where it must be, say --legacy-password-grant"),
        Some(grant @ (GrantType::AuthorizationCode | GrantType::ClientCredentials | GrantType::RefreshToken)) => {
            Ok(grant)
        }
        Some(GrantType::TokenExchange) => {
            Err("needs an `exchange:` that says what for what; write that beside the client")
        }
        None => Err("must be authorization_code, client_credentials or refresh_token"),
    }
}

fn redirect_uri(text: &str) -> Result<RedirectUri, &'static str> {
    RedirectUri::parse(text)
}

fn scope(text: &str) -> Result<String, &'static str> {
    if is_scope_token(text) {
        Ok(text.into())
    } else {
        Err("must be printable ASCII without spaces, quotes and backslashes")
    }
}

/// Printable ASCII as a string of the configuration, in which `${` would begin a variable.
fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', r"\\").replace('"', "\\\"").replace("${", "$${"))
}

/// A word of a shell's.
fn in_shell(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}
