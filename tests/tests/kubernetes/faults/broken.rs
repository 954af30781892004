//! What a story breaks is mended when the story ends, however it ends: the stories after it begin with a whole cluster.

use std::io;

use tests::kubernetes::Cluster;

/// Something that is broken until this is mended, or dropped.
pub(crate) struct Broken<'a> {
    mend: Option<Box<dyn FnOnce() -> io::Result<()> + 'a>>,
}

impl<'a> Broken<'a> {
    fn until(mend: impl FnOnce() -> io::Result<()> + 'a) -> Self {
        Self { mend: Some(Box::new(mend)) }
    }

    /// The API server is killed; mended, it is started and ready.
    ///
    /// # Errors
    /// It does not run.
    pub(crate) fn api_server(cluster: &'a Cluster) -> io::Result<Self> {
        cluster.stop_api_server()?;
        Ok(Self::until(|| cluster.start_api_server()))
    }

    /// The API server answers nobody; mended, it goes on.
    ///
    /// # Errors
    /// It does not run.
    pub(crate) fn api_server_paused(cluster: &'a Cluster) -> io::Result<Self> {
        cluster.control_plane().pause_api_server()?;
        Ok(Self::until(|| cluster.control_plane().resume_api_server()))
    }

    /// Every node's own processes are cut from the API server.
    ///
    /// # Errors
    /// One could not be cut: none is.
    pub(crate) fn network(cluster: &'a Cluster) -> io::Result<Vec<Self>> {
        let cut = |node| {
            cluster.cut_from_api(node)?;
            Ok(Self::until(move || cluster.mend(node)))
        };
        (0..cluster.nodes().len()).map(cut).collect()
    }

    /// Every node's proxy is ended by SIGKILL (`kill`) or SIGTERM; mended, it is started.
    ///
    /// # Errors
    /// One did not run, or did not obey: all run.
    pub(crate) fn proxies(cluster: &'a Cluster, kill: bool) -> io::Result<Vec<Self>> {
        let stop = |node| {
            let proxy = cluster.node_proxy(node)?;
            let stopped = Self::until(|| proxy.resume());
            proxy.stop(kill)?;
            Ok(stopped)
        };
        (0..cluster.nodes().len()).map(stop).collect()
    }

    /// Mends it.
    ///
    /// # Errors
    /// It stays broken.
    pub(crate) fn mend(mut self) -> io::Result<()> {
        self.mend.take().map_or(Ok(()), |mend| mend())
    }
}

impl Drop for Broken<'_> {
    fn drop(&mut self) {
        if let Some(Err(why)) = self.mend.take().map(|mend| mend()) {
            println!("not mended after a story: {why}");
        }
    }
}

/// Mends all of them.
///
/// # Errors
/// One stays broken.
pub(crate) fn mend(all: Vec<Broken<'_>>) -> io::Result<()> {
    all.into_iter().try_for_each(Broken::mend)
}
