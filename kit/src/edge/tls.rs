//! TLS and mutual TLS for callers. The certificates come from files, which are read again when they change.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use clap::Args;
use tokio::net::TcpStream;
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        RootCertStore, ServerConfig,
        crypto::ring,
        pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
        server::WebPkiClientVerifier,
    },
    server::TlsStream,
};

use crate::runtime::{failure::Failure, stop::Stop};

/// The interval at which the files are checked for changes.
const LOOK: Duration = Duration::from_secs(1);

/// The certificate files, all in PEM format.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "TLS")]
pub struct TlsArgs {
    /// Serves TLS with the certificate (and its chain) in this PEM file, which is read again when it changes
    #[arg(long, env, value_name = "FILE", requires = "tls_key")]
    pub tls_cert: Option<PathBuf>,

    /// The private key of the certificate, a PEM file
    #[arg(long, env, value_name = "FILE", requires = "tls_cert")]
    pub tls_key: Option<PathBuf>,

    /// Accepts only callers with a certificate of one of the authorities in this PEM file (mutual TLS)
    #[arg(long, env, value_name = "FILE", requires = "tls_cert")]
    pub tls_client_ca: Option<PathBuf>,
}

/// A problem with the certificate files.
#[derive(Debug, thiserror::Error)]
enum TlsError {
    #[error("{}: {source}", path.display())]
    File { path: PathBuf, source: io::Error },
    #[error("{}: {source}", path.display())]
    Pem { path: PathBuf, source: tokio_rustls::rustls::pki_types::pem::Error },
    #[error("{}: holds no certificate", path.display())]
    Empty { path: PathBuf },
    #[error("certificate, key and authorities do not fit together: {0}")]
    Rustls(Box<dyn std::error::Error + Send + Sync>),
}

/// The current certificates.
pub(crate) struct Tls {
    files: Files,
    current: RwLock<Current>,
}

struct Files {
    cert: PathBuf,
    key: PathBuf,
    client_ca: Option<PathBuf>,
}

struct Current {
    acceptor: TlsAcceptor,
    contents: Vec<Vec<u8>>,
}

impl Tls {
    /// Reads the files that the flags name. Returns `None` if they name none.
    pub(crate) fn open(args: &TlsArgs) -> Result<Option<Arc<Self>>, Failure> {
        let (Some(cert), Some(key)) = (args.tls_cert.clone(), args.tls_key.clone()) else { return Ok(None) };
        let files = Files { cert, key, client_ca: args.tls_client_ca.clone() };
        let wrong = |error: TlsError| Failure::configuration(format!("TLS: {error}"));
        let contents = files.read().map_err(wrong)?;
        let acceptor = files.acceptor(&contents).map_err(wrong)?;
        Ok(Some(Arc::new(Self { files, current: RwLock::new(Current { acceptor, contents }) })))
    }

    pub(super) async fn accept(&self, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        let acceptor = self.current.read().unwrap_or_else(PoisonError::into_inner).acceptor.clone();
        acceptor.accept(stream).await
    }

    /// Reads the files again when they change, until a stop is requested. Files that do not fit together are not used,
    /// as may happen while they are being replaced one after the other. New connections then use the old certificates.
    pub(super) async fn watch(&self, stop: &Stop) {
        let mut said = false;
        while tokio::time::timeout(LOOK, stop.requested()).await.is_err() {
            match self.refresh() {
                Ok(false) => said = false,
                Ok(true) => {
                    said = false;
                    tracing::info!(certificate = %self.files.cert.display(), "using the new certificates");
                }
                Err(error) if !std::mem::replace(&mut said, true) => {
                    tracing::warn!(error = %error, "the new certificates cannot be used; keeping the old ones");
                }
                Err(_) => {}
            }
        }
    }

    fn refresh(&self) -> Result<bool, TlsError> {
        let contents = self.files.read()?;
        if contents == self.current.read().unwrap_or_else(PoisonError::into_inner).contents {
            return Ok(false);
        }
        let acceptor = self.files.acceptor(&contents)?;
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = Current { acceptor, contents };
        Ok(true)
    }
}

impl Files {
    fn read(&self) -> Result<Vec<Vec<u8>>, TlsError> {
        let paths = [Some(&self.cert), Some(&self.key), self.client_ca.as_ref()];
        let read = |path: &PathBuf| fs::read(path).map_err(|source| TlsError::File { path: path.clone(), source });
        paths.into_iter().flatten().map(read).collect()
    }

    fn acceptor(&self, contents: &[Vec<u8>]) -> Result<TlsAcceptor, TlsError> {
        let (cert, key) = (&contents[0], &contents[1]);
        let pem = |path: &PathBuf| {
            let path = path.clone();
            move |source| TlsError::Pem { path, source }
        };
        let rustls = |error: Box<dyn std::error::Error + Send + Sync>| TlsError::Rustls(error);
        let provider = Arc::new(ring::default_provider());
        let versions = ServerConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions();
        let versions = versions.map_err(|error| rustls(error.into()))?;
        let config = match (&self.client_ca, contents.get(2)) {
            (Some(path), Some(authorities)) => {
                let mut roots = RootCertStore::empty();
                for authority in certificates(path, authorities)? {
                    roots.add(authority).map_err(|error| rustls(error.into()))?;
                }
                let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
                versions.with_client_cert_verifier(verifier.map_err(|error| rustls(error.into()))?)
            }
            _ => versions.with_no_client_auth(),
        };
        let key = PrivateKeyDer::from_pem_slice(key).map_err(pem(&self.key))?;
        let chain = certificates(&self.cert, cert)?;
        let mut config = config.with_single_cert(chain, key).map_err(|error| rustls(error.into()))?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(TlsAcceptor::from(Arc::new(config)))
    }
}

fn certificates(path: &Path, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let certificates = certificates.map_err(|source| TlsError::Pem { path: path.to_owned(), source })?;
    if certificates.is_empty() {
        return Err(TlsError::Empty { path: path.to_owned() });
    }
    Ok(certificates)
}
