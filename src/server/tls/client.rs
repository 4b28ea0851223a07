//! What a client's certificate says, once the handshake has shown that the client holds its key.

use std::{fmt::Write as _, io, net::IpAddr};

use aws_lc_rs::digest::{SHA256, digest};
use http::{HeaderName, HeaderValue};
use rustls::pki_types::CertificateDer;
use x509_parser::{
    asn1_rs::{Any, Tag, ToDer as _},
    certificate::X509Certificate,
    extensions::GeneralName,
    x509::{AttributeTypeAndValue, RelativeDistinguishedName, X509Name},
};

use crate::{
    clock::Clock,
    http::{CertificateName, ClientCertificate},
};

/// The longest subject that is passed on, in bytes: what is left of the header room that upstreams commonly have.
const MAX_SUBJECT: usize = 4096;

/// Attribute types that have a name: those of RFC 4514 §3, and two that certificates of people and machines carry. All
/// others are written as their numbers.
const TYPES: [(&str, &str); 11] = [
    ("2.5.4.3", "CN"),
    ("2.5.4.7", "L"),
    ("2.5.4.8", "ST"),
    ("2.5.4.10", "O"),
    ("2.5.4.11", "OU"),
    ("2.5.4.6", "C"),
    ("2.5.4.9", "STREET"),
    ("0.9.2342.19200300.100.1.25", "DC"),
    ("0.9.2342.19200300.100.1.1", "UID"),
    ("2.5.4.5", "serialNumber"),
    ("1.2.840.113549.1.9.1", "emailAddress"),
];

/// Reads the certificate that a client has authenticated with.
///
/// # Errors
/// When it cannot be read, or has expired: a session that is resumed brings the certificate it began with, unverified.
pub(super) fn read(der: &CertificateDer<'_>, subject_header: &HeaderName) -> io::Result<ClientCertificate> {
    let (_, certificate) = x509_parser::parse_x509_certificate(der).map_err(io::Error::other)?;
    let now = i64::try_from(Clock::System.now().as_secs()).unwrap_or(i64::MAX);
    if certificate.validity().not_after.timestamp() < now {
        return Err(io::Error::other("the client's certificate has expired since its session began"));
    }
    let subject = distinguished_name(certificate.subject());
    let mut thumbprint = [0; 32];
    thumbprint.copy_from_slice(digest(&SHA256, der).as_ref());
    Ok(ClientCertificate {
        subject: header_value(&subject),
        names: names(&certificate, subject),
        subject_header: subject_header.clone(),
        thumbprint,
    })
}

/// All that it is known by. What is no name of one of these kinds, or cannot be read, is left out: nobody is known by it.
fn names(certificate: &X509Certificate<'_>, subject: String) -> Box<[CertificateName]> {
    let subject = Some(subject).filter(|subject| !subject.is_empty());
    let others = certificate.subject_alternative_name().ok().flatten();
    let others = others.iter().flat_map(|names| &names.value.general_names).filter_map(|name| match name {
        GeneralName::DNSName(name) => Some(CertificateName::Dns(name.to_ascii_lowercase().into())),
        GeneralName::URI(uri) => Some(CertificateName::Uri((*uri).into())),
        GeneralName::RFC822Name(email) => Some(CertificateName::Email((*email).into())),
        GeneralName::IPAddress(bytes) => ip(bytes).map(CertificateName::Ip),
        _ => None,
    });
    subject.map(|subject| CertificateName::Subject(subject.into())).into_iter().chain(others).collect()
}

/// RFC 5280 §4.2.1.6: four bytes, or sixteen.
fn ip(bytes: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(bytes).map(IpAddr::from);
    v4.or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from)).ok()
}

/// A subject as a header; one that is empty, or longer than a header should be, is none.
fn header_value(subject: &str) -> Option<HeaderValue> {
    let fits = !subject.is_empty() && subject.len() <= MAX_SUBJECT;
    fits.then(|| HeaderValue::from_str(subject).ok()).flatten()
}

/// A name in the words of RFC 4514: the last part first. All that is not printable ASCII is written as `\XX`, so that no
/// two readers decode it in two ways and every name fits into a header.
fn distinguished_name(name: &X509Name<'_>) -> String {
    let parts: Vec<&RelativeDistinguishedName<'_>> = name.iter().collect();
    let mut text = String::new();
    for (n, part) in parts.into_iter().rev().enumerate() {
        // §2.2 leaves their order free; this is OpenSSL's, and with it that of most proxies.
        let attributes: Vec<_> = part.iter().collect();
        for (m, attribute) in attributes.into_iter().rev().enumerate() {
            match (n, m) {
                (0, 0) => {}
                (_, 0) => text.push(','),
                _ => text.push('+'),
            }
            push_attribute(&mut text, attribute);
        }
    }
    text
}

/// §2.3 and §2.4: what has no name, or is no text, is its encoding in hexadecimal.
fn push_attribute(text: &mut String, attribute: &AttributeTypeAndValue<'_>) {
    let number = attribute.attr_type().to_id_string();
    let name = TYPES.iter().find(|(known, _)| *known == number).map(|(_, name)| *name);
    text.push_str(name.unwrap_or(&number));
    text.push('=');
    match name.and_then(|_| string(attribute.attr_value())) {
        Some(value) => push_escaped(text, &value),
        None => {
            text.push('#');
            attribute.attr_value().to_der_vec().unwrap_or_default().iter().for_each(|byte| push_hex(text, *byte));
        }
    }
}

/// A value of one of the kinds of text that certificates hold.
fn string(value: &Any<'_>) -> Option<String> {
    match value.tag() {
        Tag::Utf8String | Tag::PrintableString | Tag::Ia5String | Tag::NumericString => {
            str::from_utf8(value.data).ok().map(Into::into)
        }
        // UCS-2, as older authorities write names.
        Tag::BmpString if value.data.len().is_multiple_of(2) => {
            let units = value.data.chunks_exact(2).map(|pair| u16::from_be_bytes([pair[0], pair[1]]));
            char::decode_utf16(units).collect::<Result<_, _>>().ok()
        }
        _ => None,
    }
}

/// §2.4: special characters behind a backslash, so that a value cannot pose as a part of its own. Spaces at the ends as
/// hexadecimal, since a header's own ends are trimmed.
fn push_escaped(text: &mut String, value: &str) {
    let last = value.len().saturating_sub(1);
    for (n, byte) in value.bytes().enumerate() {
        match byte {
            b'"' | b'+' | b',' | b';' | b'<' | b'>' | b'\\' => text.extend(['\\', char::from(byte)]),
            b'#' if n == 0 => text.push_str("\\#"),
            b' ' if n == 0 || n == last => text.push_str("\\20"),
            b' '..=b'~' => text.push(char::from(byte)),
            _ => {
                text.push('\\');
                push_hex(text, byte);
            }
        }
    }
}

fn push_hex(text: &mut String, byte: u8) {
    // Writing into a string does not fail.
    let _ = write!(text, "{byte:02X}");
}
