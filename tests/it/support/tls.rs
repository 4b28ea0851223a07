//! A CA of a test's own, the certificates it signs, and clients that trust it alone.

use std::{
    fs,
    io::{self, ErrorKind, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, SignatureAlgorithm};
use rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, Error, RootCertStore, SignatureScheme, StreamOwned,
    SupportedProtocolVersion,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, aws_lc_rs::default_provider, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject as _},
};

use super::PATIENCE;

/// A CA.
pub(crate) struct Ca {
    issuer: Issuer<'static, KeyPair>,
    /// Its certificate.
    pub(crate) file: PathBuf,
}

impl Ca {
    /// Makes one; its certificate is in `file`.
    pub(crate) fn new(file: PathBuf) -> Self {
        let mut params = CertificateParams::new([]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "Sidegate's test CA");
        params.key_usages = vec![rcgen::KeyUsagePurpose::KeyCertSign];
        let key = KeyPair::generate().unwrap();
        fs::write(&file, params.self_signed(&key).unwrap().pem()).unwrap();
        Self { issuer: Issuer::new(params, key), file }
    }

    /// Its private key, for those that sign on their own.
    pub(crate) fn key(&self) -> String {
        self.issuer.key().serialize_pem()
    }

    /// Signs a certificate, into `{at}.pem` and `{at}.key`. Each comes into place whole, the certificate first.
    pub(crate) fn sign(&self, at: &Path, params: CertificateParams) -> Issued {
        self.sign_for(at, params, &rcgen::PKCS_ECDSA_P256_SHA256)
    }

    /// The same with a key of another kind.
    pub(crate) fn sign_for(
        &self,
        at: &Path,
        mut params: CertificateParams,
        kind: &'static SignatureAlgorithm,
    ) -> Issued {
        // Python's ssl asks for it since 3.13.
        params.use_authority_key_identifier_extension = true;
        let key = KeyPair::generate_for(kind).unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let issued = Issued { cert_file: at.with_extension("pem"), key_file: at.with_extension("key") };
        put(&issued.cert_file, &certificate.pem());
        put(&issued.key_file, &key.serialize_pem());
        issued
    }
}

/// A certificate and its key.
pub(crate) struct Issued {
    pub(crate) cert_file: PathBuf,
    pub(crate) key_file: PathBuf,
}

impl Issued {
    /// The certificate itself.
    pub(crate) fn der(&self) -> CertificateDer<'static> {
        CertificateDer::from_pem_file(&self.cert_file).unwrap()
    }
}

/// What is to be in a certificate for these names.
pub(crate) fn names(names: &[&str]) -> CertificateParams {
    CertificateParams::new(names.iter().map(ToString::to_string).collect::<Vec<_>>()).unwrap()
}

/// What is to be in a certificate of a client with this common name.
pub(crate) fn common_name(name: &str) -> CertificateParams {
    let mut params = names(&[]);
    params.distinguished_name.push(DnType::CommonName, name);
    params
}

/// Writes a file that its owner alone may read, and puts it in the place of what is there.
pub(crate) fn put(path: &Path, text: &str) {
    let beside = path.with_extension("new");
    fs::write(&beside, text).unwrap();
    fs::set_permissions(&beside, fs::Permissions::from_mode(0o600)).unwrap();
    fs::rename(beside, path).unwrap();
}

/// Makes a CA and a certificate of it for the loopback names (`cert.pem`, `key.pem`); returns the CA's file.
pub(crate) fn certify(home: &Path) -> PathBuf {
    let ca = Ca::new(home.join("ca.pem"));
    let issued = ca.sign(&home.join("cert"), names(&["localhost", "127.0.0.1"]));
    fs::rename(issued.key_file, home.join("key.pem")).unwrap();
    ca.file
}

/// A connection over TLS.
pub(crate) type Stream = StreamOwned<ClientConnection, TcpStream>;

/// Connects with one version of TLS, trusting the CA in `ca_file`, and does the whole handshake.
pub(crate) fn connect(
    to: SocketAddr,
    ca_file: &Path,
    version: &'static SupportedProtocolVersion,
    protocols: &[&str],
) -> io::Result<Stream> {
    let mut config = client(ca_file, version, None);
    config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
    dial(to, &Arc::new(config), "localhost")
}

/// A client that trusts the CA in `ca_file`, and shows a certificate if it is asked for one. Connections of one client
/// resume each other's sessions.
pub(crate) fn client(ca_file: &Path, version: &'static SupportedProtocolVersion, own: Option<&Issued>) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(ca_file).unwrap()).unwrap();
    let builder = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_protocol_versions(&[version])
        .unwrap()
        .with_root_certificates(roots);
    match own {
        None => builder.with_no_client_auth(),
        Some(own) => {
            let key = PrivateKeyDer::from_pem_file(&own.key_file).unwrap();
            builder.with_client_auth_cert(vec![own.der()], key).unwrap()
        }
    }
}

/// Connects, asks for a name, and does the handshake. With TLS 1.3 what the server thinks of the client's certificate comes
/// only after that.
pub(crate) fn dial(to: SocketAddr, config: &Arc<ClientConfig>, name: &str) -> io::Result<Stream> {
    let client = ClientConnection::new(config.clone(), ServerName::try_from(name.to_owned()).unwrap()).unwrap();
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

/// Asks for something on a connection that stays open, and reads the answer to its end; its status.
pub(crate) fn ask(stream: &mut Stream, path: &str, headers: &str) -> io::Result<u16> {
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: h\r\n{headers}\r\n").as_bytes())?;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        head.extend(byte);
    }
    let head = String::from_utf8(head).unwrap().to_lowercase();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).expect("a length");
    stream.read_exact(&mut vec![0; length.parse().unwrap()])?;
    Ok(head[9..12].parse().unwrap())
}

/// Takes any certificate, so that a test can look at it; says that it can verify these kinds of signature alone.
#[derive(Debug)]
pub(crate) struct Curious {
    provider: CryptoProvider,
    schemes: Vec<SignatureScheme>,
}

impl Curious {
    /// A client that looks at certificates.
    pub(crate) fn client(schemes: &[SignatureScheme]) -> ClientConfig {
        let verifier = Self { provider: default_provider(), schemes: schemes.to_vec() };
        ClientConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_no_client_auth()
    }
}

impl ServerCertVerifier for Curious {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, signature, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, signature, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.schemes.clone()
    }
}
