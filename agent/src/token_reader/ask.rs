//! The agent's end of the token reader's socket.

use std::path::PathBuf;
use std::time::Duration;

use jiff::Timestamp;
use portcullis_imds::jwt;
use portcullis_imds::secret::Secret;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::time::timeout;

use super::{Answer, LINE, Question};

/// How long the reader may take beside the wait for a file.
const PATIENCE: Duration = Duration::from_millis(1500);

/// Who is asked for tokens.
#[derive(Clone, Debug)]
pub struct Reader {
    /// Its socket.
    pub socket: PathBuf,
    /// The only uid that is asked.
    pub uid: u32,
}

impl Reader {
    /// The pod's own projected token for this audience. `wait`: how long a pod that is starting may take to get it.
    pub async fn token(
        &self,
        pod_uid: &str,
        audience: &str,
        wait: Duration,
    ) -> Result<Secret, String> {
        let question = Question {
            pod_uid: pod_uid.to_owned(),
            audience: audience.to_owned(),
            wait_ms: wait.as_millis() as u64,
        };
        let answer = timeout(wait + PATIENCE, self.ask(&question))
            .await
            .map_err(|_elapsed| "the token reader does not answer".to_owned())?
            .map_err(|error| format!("the token reader cannot be asked: {error}"))?;
        let token = answer.token?;
        // Whatever the reader says, a token of another pod or for somebody else is not passed on.
        let claims = jwt::claims(token.expose()).map_err(|error| error.to_string())?;
        if claims.pod_uid() == Some(pod_uid)
            && claims.is_for(audience)
            && claims.is_in_time(Timestamp::now())
        {
            Ok(token)
        } else {
            Err("the token reader has another token than was asked for".to_owned())
        }
    }

    async fn ask(&self, question: &Question) -> std::io::Result<Answer> {
        let mut stream = UnixStream::connect(&self.socket).await?;
        let peer = stream.peer_cred()?.uid();
        if peer != self.uid {
            return Err(std::io::Error::other(format!(
                "uid {peer} holds its socket, not {}",
                self.uid
            )));
        }
        let mut line = serde_json::to_vec(question)?;
        line.push(b'\n');
        stream.write_all(&line).await?;
        let mut said = Vec::new();
        stream.take(LINE).read_to_end(&mut said).await?;
        Ok(serde_json::from_slice(&said)?)
    }
}
