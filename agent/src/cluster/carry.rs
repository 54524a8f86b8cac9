//! Bytes to an agent and back: `portcullis bridge` in its pod, run through the API server's exec.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures::future::{BoxFuture, FutureExt as _, Shared};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Status;
use kube::Api;
use kube::api::{AttachParams, AttachedProcess};
use tokio::io::{
    AsyncRead, AsyncReadExt as _, Join, ReadBuf, ReadHalf, SimplexStream, WriteHalf, join,
};
use tokio::time::{Duration, timeout};

use super::pod::CONTAINER;
use super::{Agent, Cluster, refusal};
use crate::client::Line;
use crate::failure::Failure;

/// What waits on the way from or to a bridge.
const BUFFER: usize = 64 << 10;

/// How much of a bridge's complaint is read.
const MOST_COMPLAINT: u64 = 4096;

/// How long a bridge that broke off may take to say why.
const LAST_WORD: Duration = Duration::from_secs(2);

/// Bytes to a bridge and from it.
type Stream = Join<Output, WriteHalf<SimplexStream>>;

/// How a bridge ended; nothing if its connection broke.
type Ended = Shared<BoxFuture<'static, Option<Status>>>;

/// A bridge that runs; dropped, it loses its caller and ends.
pub(super) struct Bridge {
    _process: AttachedProcess,
    complaint: Option<ReadHalf<SimplexStream>>,
    ended: Ended,
}

/// What a bridge says, until it ends. kube closes it only where the bridge ended in order; where its connection broke, whoever reads would wait for
/// ever (kube-client 5, `start_message_loop`).
pub(super) struct Output {
    bytes: ReadHalf<SimplexStream>,
    /// `None` once it has ended.
    ended: Option<Ended>,
}

impl AsyncRead for Output {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if let Some(ended) = &mut self.ended
            && ended.poll_unpin(context).is_ready()
        {
            self.ended = None;
        }
        // What came before the end is read before it.
        match Pin::new(&mut self.bytes).poll_read(context, buffer) {
            Poll::Pending if self.ended.is_none() => Poll::Ready(Ok(())),
            other => other,
        }
    }
}

impl Bridge {
    /// Its own word on why it ended, else `failure`.
    pub(super) async fn last_word_or(mut self, failure: Failure) -> Failure {
        match timeout(LAST_WORD, self.last_word()).await {
            Ok(Some(why)) => Failure { why, ..failure },
            Ok(None) | Err(_) => failure,
        }
    }

    async fn last_word(&mut self) -> Option<String> {
        let mut text = String::new();
        if let Some(complaint) = self.complaint.take() {
            // Whatever has come is enough.
            let _ = complaint
                .take(MOST_COMPLAINT)
                .read_to_string(&mut text)
                .await;
        }
        let status = self.ended.clone().await;
        let said: Vec<&str> = text.lines().map(str::trim).collect();
        let ended = status.and_then(|status| status.message).unwrap_or_default();
        let parts = [said.join("; "), ended];
        let parts: Vec<String> = parts.into_iter().filter(|part| !part.is_empty()).collect();
        (!parts.is_empty()).then(|| parts.join("; "))
    }
}

impl Cluster {
    /// A line to the agent; it ends when the line is dropped.
    pub async fn open_line(&self, agent: &Agent) -> Result<Line, Failure> {
        let (stream, bridge) = self.open(agent).await?;
        Ok(Line::over(stream, bridge).await?)
    }

    pub(super) async fn open(&self, agent: &Agent) -> Result<(Stream, Bridge), Failure> {
        if let Some(trouble) = &agent.trouble {
            return Err(Failure::new(
                "PC4002",
                format!("no agent answers on {}", agent.node),
                trouble.clone(),
                format!(
                    "see `kubectl -n {} describe pod {}`",
                    self.access.namespace, agent.pod
                ),
            ));
        }
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), &self.access.namespace);
        let parameters = AttachParams {
            container: Some(CONTAINER.to_owned()),
            stdin: true,
            stdout: true,
            stderr: true,
            tty: false,
            max_stdin_buf_size: Some(BUFFER),
            max_stdout_buf_size: Some(BUFFER),
            max_stderr_buf_size: Some(BUFFER),
        };
        let command = ["portcullis", "bridge"];
        let doing = format!(
            "exec into pod {} (create pods/exec in namespace {})",
            agent.pod, self.access.namespace
        );
        let mut process = pods
            .exec(&agent.pod, command, &parameters)
            .await
            .map_err(|error| self.cannot_exec(agent, &doing, &error))?;
        let (Some(input), Some(output)) = (process.stdin(), process.stdout()) else {
            unreachable!("both were asked for");
        };
        let complaint = process.stderr();
        let status = process.take_status().expect("nobody took it before");
        let ended = status.boxed().shared();
        let output = Output {
            bytes: output,
            ended: Some(ended.clone()),
        };
        let bridge = Bridge {
            _process: process,
            complaint,
            ended,
        };
        Ok((join(output, input), bridge))
    }

    fn cannot_exec(&self, agent: &Agent, doing: &str, error: &kube::Error) -> Failure {
        match error {
            // The person's, and the same for every agent.
            kube::Error::Api(status) if matches!(status.code, 401 | 403) => {
                refusal::failure(doing, error)
            }
            _ => Failure::new(
                "PC4002",
                format!("no agent answers on {}", agent.node),
                refusal::in_full(error),
                format!(
                    "see `kubectl -n {} describe pod {}`",
                    self.access.namespace, agent.pod
                ),
            ),
        }
    }
}
