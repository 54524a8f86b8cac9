//! What the SDK for Rust finds by itself where it is run, as one line of JSON: `{"keys": ..., "error": ..., "millis": ...}`.
//!
//! `find-keys imds|ecs|chain`. The tests start it in pods; nothing is set but what a pod would have in its environment.

use std::time::Instant;

use anyhow::{Result, bail};
use aws_config::default_provider::credentials::DefaultCredentialsChain;
use aws_config::ecs::EcsCredentialsProvider;
use aws_config::imds::credentials::ImdsCredentialsProvider;
use aws_config::provider_config::ProviderConfig;
use aws_credential_types::provider::ProvideCredentials;
use aws_smithy_http_client::Builder;
use serde_json::{Value, json};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let which = std::env::args().nth(1).unwrap_or_default();
    // The default client speaks TLS as well, which no metadata service does.
    let config = ProviderConfig::without_region().with_http_client(Builder::new().build_http());
    let start = Instant::now();
    let found = match which.as_str() {
        "imds" => {
            let provider = ImdsCredentialsProvider::builder().configure(&config);
            provider.build().provide_credentials().await
        }
        "ecs" => {
            let provider = EcsCredentialsProvider::builder().configure(&config);
            provider.build().provide_credentials().await
        }
        "chain" => {
            let provider = DefaultCredentialsChain::builder().configure(config);
            provider.build().await.provide_credentials().await
        }
        other => bail!("imds, ecs or chain, and not {other:?}"),
    };
    let millis = start.elapsed().as_millis() as u64;
    let (keys, error) = match found {
        Ok(keys) => {
            let keys = json!({
                "AccessKeyId": keys.access_key_id(),
                "SecretAccessKey": keys.secret_access_key(),
                "Token": keys.session_token(),
            });
            (keys, Value::Null)
        }
        // The kind is the first word of the value: whether the next provider would be asked follows from it.
        Err(error) => (Value::Null, format!("{error:?}").into()),
    };
    let said = json!({"keys": keys, "error": error, "millis": millis});
    // To a pipe that the test reads.
    std::io::Write::write_all(&mut std::io::stdout(), format!("{said}\n").as_bytes())?;
    Ok(())
}
