//! From a kubeconfig to a client, with the rights of whoever it names.

use std::path::PathBuf;
use std::time::Duration;

use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};

use super::refusal;
use crate::failure::Failure;

/// How long the API server may take to let itself be connected to.
const CONNECT: Duration = Duration::from_secs(5);

/// Which cluster, and where in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Access {
    /// A kubeconfig; those of `KUBECONFIG`, else `~/.kube/config`, else the pod's service account if absent.
    pub kubeconfig: Option<PathBuf>,
    /// One of its contexts; the current one if absent.
    pub context: Option<String>,
    /// Namespace of the agents.
    pub namespace: String,
    /// Only the agents of these nodes; all if empty.
    pub nodes: Vec<String>,
    /// Only the agents of nodes with these labels, as `kubectl -l` has them; all if absent.
    pub labels: Option<String>,
    /// As whom to act.
    pub as_whom: AsWhom,
}

/// Whom the API server is to take the person for, as `kubectl --as` says it; what is empty stays as the kubeconfig has it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AsWhom {
    /// A user, or `system:serviceaccount:NAMESPACE:NAME`.
    pub user: Option<String>,
    /// Groups of theirs.
    pub groups: Vec<String>,
}

/// A cluster that was found; nothing was asked of it yet.
pub struct Cluster {
    pub(super) client: Client,
    pub(super) access: Access,
    /// The context's namespace.
    pub default_namespace: String,
}

impl Access {
    /// Reads the kubeconfig.
    pub async fn connect(self) -> Result<Cluster, Failure> {
        let mut config = self.config().await?;
        self.as_whom.put_into(&mut config)?;
        config.connect_timeout = Some(CONNECT);
        config.default_retry = false;
        let default_namespace = config.default_namespace.clone();
        let client = Client::try_from(config)
            .map_err(|error| refusal::failure("use the kubeconfig", &error))?;
        Ok(Cluster {
            client,
            access: self,
            default_namespace,
        })
    }

    async fn config(&self) -> Result<Config, Failure> {
        if self.kubeconfig.is_none() && self.context.is_none() {
            return Config::infer()
                .await
                .map_err(|error| refusal::kubeconfig(&error));
        }
        let options = KubeConfigOptions {
            context: self.context.clone(),
            ..KubeConfigOptions::default()
        };
        let read = match &self.kubeconfig {
            Some(path) => Kubeconfig::read_from(path),
            None => Kubeconfig::read(),
        };
        let kubeconfig = read.map_err(|error| refusal::kubeconfig(&error))?;
        Config::from_custom_kubeconfig(kubeconfig, &options)
            .await
            .map_err(|error| refusal::kubeconfig(&error))
    }
}

impl AsWhom {
    /// The API server would not know whose groups they are; kubectl asks for the user too.
    fn put_into(&self, config: &mut Config) -> Result<(), Failure> {
        let person = &mut config.auth_info;
        if self.user.is_some() {
            person.impersonate.clone_from(&self.user);
        }
        if !self.groups.is_empty() {
            person.impersonate_groups = Some(self.groups.clone());
        }
        if person.impersonate.is_none() && !self.groups.is_empty() {
            return Err(Failure::new(
                "PC5001",
                "--as-group wants --as",
                "groups are those of a user, and the kubeconfig names none to act as",
                "add --as USER",
            ));
        }
        Ok(())
    }
}
