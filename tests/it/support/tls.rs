//! A CA of a test's own, and a client that trusts it alone.

use std::{
    fs,
    io::ErrorKind,
    net::{SocketAddr, TcpStream},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, StreamOwned, SupportedProtocolVersion,
    crypto::aws_lc_rs::default_provider,
    pki_types::{CertificateDer, ServerName, pem::PemObject as _},
};

use super::PATIENCE;

/// Makes a CA and a certificate of it for the loopback names (`cert.pem`, `key.pem`); returns the CA's file.
pub(crate) fn certify(home: &Path) -> PathBuf {
    let mut ca = CertificateParams::new([]).unwrap();
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    ca.distinguished_name.push(rcgen::DnType::CommonName, "Sidegate's test CA");
    ca.key_usages = vec![rcgen::KeyUsagePurpose::KeyCertSign];
    let ca_key = KeyPair::generate().unwrap();
    let ca_file = home.join("ca.pem");
    fs::write(&ca_file, ca.self_signed(&ca_key).unwrap().pem()).unwrap();

    let key = KeyPair::generate().unwrap();
    let mut leaf = CertificateParams::new(["localhost".to_owned(), "127.0.0.1".to_owned()]).unwrap();
    // Python's ssl asks for it since 3.13.
    leaf.use_authority_key_identifier_extension = true;
    let leaf = leaf.signed_by(&key, &Issuer::new(ca, ca_key)).unwrap();
    fs::write(home.join("cert.pem"), leaf.pem()).unwrap();
    fs::write(home.join("key.pem"), key.serialize_pem()).unwrap();
    fs::set_permissions(home.join("key.pem"), fs::Permissions::from_mode(0o600)).unwrap();
    ca_file
}

/// A connection over TLS.
pub(crate) type Stream = StreamOwned<ClientConnection, TcpStream>;

/// Connects with one version of TLS, trusting the CA in `ca_file`, and does the whole handshake.
pub(crate) fn connect(
    to: SocketAddr,
    ca_file: &Path,
    version: &'static SupportedProtocolVersion,
    protocols: &[&str],
) -> std::io::Result<Stream> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(ca_file).unwrap()).unwrap();
    let mut config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_protocol_versions(&[version])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
    let client = ClientConnection::new(Arc::new(config), ServerName::try_from("localhost").unwrap()).unwrap();
    let socket = TcpStream::connect(to)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.set_write_timeout(Some(PATIENCE))?;
    let mut stream = StreamOwned::new(client, socket);
    while stream.conn.is_handshaking() {
        stream.conn.complete_io(&mut stream.sock).map_err(|error| match error.kind() {
            ErrorKind::WouldBlock => ErrorKind::TimedOut.into(),
            _ => error,
        })?;
    }
    Ok(stream)
}
