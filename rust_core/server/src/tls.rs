//! TLS on the ext_proc port: certificates that can change while it serves, and the handshake.

use crate::socket::Socket;
use arc_swap::ArcSwap;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::time::{Timeout, timeout};
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::{Error as PemError, PemObject};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{self, RootCertStore, ServerConfig};
use tokio_rustls::server::TlsStream;
use tokio_rustls::{Accept, TlsAcceptor};

/// A client that has not ended its handshake by then is cut off.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// What the server shows and whom it believes, as PEM text.
#[derive(Clone)]
pub struct TlsFiles {
    /// The server's certificate, then its intermediates.
    pub certificate: Vec<u8>,
    /// The key of the first certificate.
    pub key: Vec<u8>,
    /// Who signs clients' certificates; with it, a client without one is refused.
    pub client_ca: Option<Vec<u8>>,
}

/// Why certificates cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// Not PEM, or nothing of the wanted kind in it.
    #[error("{what}: {source}")]
    Pem {
        /// Which of the files.
        what: &'static str,
        /// The reader's reason.
        source: PemError,
    },
    /// No certificate in the file.
    #[error("{0}: holds no certificate")]
    Empty(&'static str),
    /// Certificate and key do not belong together, or are of a kind that is not supported.
    #[error("certificate or key: {0}")]
    Pair(rustls::Error),
    /// The clients' CA cannot be used.
    #[error("client_ca: {0}")]
    ClientCa(String),
}

/// The certificates in use, shared by all threads.
pub(crate) struct Certificates(ArcSwap<ServerConfig>);

impl Certificates {
    pub(crate) fn new(files: &TlsFiles) -> Result<Self, TlsError> {
        server_config(files).map(|config| Self(ArcSwap::from_pointee(config)))
    }

    /// Connections from now on use these; open ones go on with theirs.
    pub(crate) fn set(&self, files: &TlsFiles) -> Result<(), TlsError> {
        self.0.store(Arc::new(server_config(files)?));
        Ok(())
    }

    pub(crate) fn accept(&self, socket: Socket) -> Secured {
        let accept = TlsAcceptor::from(self.0.load_full()).accept(socket);
        Secured::Handshake(Box::pin(timeout(HANDSHAKE, accept)))
    }
}

fn server_config(files: &TlsFiles) -> Result<ServerConfig, TlsError> {
    let chain = certificates("certificate", &files.certificate)?;
    let key = PrivateKeyDer::from_pem_slice(&files.key).map_err(|source| TlsError::Pem {
        what: "key",
        source,
    })?;
    let provider = Arc::new(ring::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(TlsError::Pair)?;
    let builder = match &files.client_ca {
        None => builder.with_no_client_auth(),
        Some(pem) => {
            let refused = |error: &dyn std::fmt::Display| TlsError::ClientCa(error.to_string());
            let mut roots = RootCertStore::empty();
            for certificate in certificates("client_ca", pem)? {
                roots.add(certificate).map_err(|error| refused(&error))?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
                .build()
                .map_err(|error| refused(&error))?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let mut config = builder
        .with_single_cert(chain, key)
        .map_err(TlsError::Pair)?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(config)
}

fn certificates(what: &'static str, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let all = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|source| TlsError::Pem { what, source })?;
    if all.is_empty() {
        return Err(TlsError::Empty(what));
    }
    Ok(all)
}

/// A connection under TLS. The handshake runs where the connection is first read or written, so that
/// a slow client holds up nobody else.
pub(crate) enum Secured {
    Handshake(Pin<Box<Timeout<Accept<Socket>>>>),
    Open(Box<TlsStream<Socket>>),
    Failed,
}

impl Secured {
    /// The stream, once the handshake is done.
    pub(crate) fn poll_open(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<Pin<&mut TlsStream<Socket>>>> {
        if let Self::Handshake(handshake) = self {
            let ended = ready!(handshake.as_mut().poll(context));
            match ended.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
                Ok(stream) => *self = Self::Open(Box::new(stream)),
                Err(error) => {
                    tracing::warn!(%error, "a TLS handshake failed");
                    *self = Self::Failed;
                    return Poll::Ready(Err(error));
                }
            }
        }
        Poll::Ready(match self {
            Self::Open(stream) => Ok(Pin::new(stream.as_mut())),
            _ => Err(io::ErrorKind::NotConnected.into()),
        })
    }
}
