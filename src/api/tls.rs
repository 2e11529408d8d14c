//! TLS in front of the API, which is needed off loopback.
//!
//! Handshakes run beside each other, each within a limit, so that a client that stalls in one keeps nobody waiting.

use std::{io, net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use axum::serve::Listener;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Semaphore, mpsc},
    task::JoinHandle,
    time::{sleep, timeout},
};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        ServerConfig,
        crypto::ring,
        pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    },
    server::TlsStream,
};

/// How long a client may take to shake hands.
const HANDSHAKE_MAX: Duration = Duration::from_secs(10);
/// Handshakes at a time.
const HANDSHAKES_MAX: usize = 64;
/// After an error of the listener, such as too many open files.
const PAUSE: Duration = Duration::from_millis(100);

/// Where the certificate and its key are, as PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// The certificate, then those that vouch for it.
    pub cert_file: PathBuf,
    /// The private key.
    pub key_file: PathBuf,
}

impl TlsFiles {
    /// Reads them; in words if one cannot be read or they do not belong together.
    ///
    /// # Errors
    /// As said.
    pub fn acceptor(&self) -> Result<TlsAcceptor, String> {
        let cert = self.cert_file.display();
        let certificates = CertificateDer::pem_file_iter(&self.cert_file)
            .and_then(Iterator::collect::<Result<Vec<_>, _>>)
            .map_err(|error| format!("{cert}: {error}"))?;
        if certificates.is_empty() {
            return Err(format!("{cert} holds no certificate: write it as PEM"));
        }
        let key = PrivateKeyDer::from_pem_file(&self.key_file).map_err(|error| format!("{}: {error}", self.key_file.display()))?;
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?
            .with_no_client_auth()
            .with_single_cert(certificates, key)
            .map_err(|error| format!("{cert} and {} make no identity: {error}", self.key_file.display()))?;
        Ok(TlsAcceptor::from(Arc::new(config)))
    }
}

/// Connections whose handshake is done.
pub struct TlsListener {
    local: SocketAddr,
    ready: mpsc::Receiver<(TlsStream<TcpStream>, SocketAddr)>,
    shakes: JoinHandle<()>,
}

impl TlsListener {
    /// # Errors
    /// The listener has no address.
    pub fn new(listener: TcpListener, acceptor: TlsAcceptor) -> io::Result<Self> {
        let local = listener.local_addr()?;
        let (done, ready) = mpsc::channel(HANDSHAKES_MAX);
        let shakes = tokio::spawn(async move {
            let room = Arc::new(Semaphore::new(HANDSHAKES_MAX));
            loop {
                let Ok(permit) = Arc::clone(&room).acquire_owned().await else { return };
                let Ok((stream, from)) = listener.accept().await else {
                    sleep(PAUSE).await;
                    continue;
                };
                let (acceptor, done) = (acceptor.clone(), done.clone());
                tokio::spawn(async move {
                    match timeout(HANDSHAKE_MAX, acceptor.accept(stream)).await {
                        Ok(Ok(stream)) => drop(done.send((stream, from)).await),
                        Ok(Err(error)) => tracing::debug!(%from, %error, "no TLS handshake"),
                        Err(_) => tracing::debug!(%from, "no TLS handshake in time"),
                    }
                    drop(permit);
                });
            }
        });
        Ok(Self { local, ready, shakes })
    }
}

impl Drop for TlsListener {
    fn drop(&mut self) {
        self.shakes.abort();
    }
}

impl Listener for TlsListener {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        match self.ready.recv().await {
            Some(connection) => connection,
            // The task that sends ends with this listener only.
            None => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        Ok(self.local)
    }
}
