//! What the API server is told of a pod, by a task of its own: a server that does not answer holds up nothing on the
//! node, and of what changed meanwhile only the newest is told.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::sleep;

use crate::kubernetes::api::{Api, ApiError, ask};

/// A server that did not take something is told again after this.
const AGAIN: Duration = Duration::from_millis(200);
/// Conditions of others stay as they are, lists of ours are replaced.
const STRATEGIC: &str = "application/strategic-merge-patch+json";

#[derive(Clone, Debug)]
enum Word {
    Nothing,
    /// A patch of the status.
    Status(Value),
    /// Nothing is left of the pod.
    Over,
}

/// Tells the API server of one pod. Dropping it ends that, but for the last word.
#[derive(Debug)]
pub(super) struct Publisher {
    newest: watch::Sender<Word>,
    told: Value,
}

impl Publisher {
    /// For the pod of this path and uid: never for another one of its name.
    pub(super) fn start(api: &Api, path: &str, uid: &str) -> Self {
        let (newest, news) = watch::channel(Word::Nothing);
        drop(api.spawn(publish(api.client(), path.to_owned(), uid.to_owned(), news)));
        Self { newest, told: Value::Null }
    }

    /// Tells this status, unless it is what was told last.
    pub(super) fn status(&mut self, patch: Value) {
        if patch != self.told {
            self.newest.send_replace(Word::Status(patch.clone()));
            self.told = patch;
        }
    }

    /// Somebody overwrote what was told: it is told again.
    pub(super) fn forget(&mut self) {
        self.told = Value::Null;
    }

    /// Has the object deleted.
    pub(super) fn over(&self) {
        self.newest.send_replace(Word::Over);
    }
}

async fn publish(client: kube::Client, path: String, uid: String, mut news: watch::Receiver<Word>) {
    let mut again = false;
    // An error says that the pod's thread is gone, and that it left no last word.
    while again || news.changed().await.is_ok() {
        let word = news.borrow_and_update().clone();
        let done = match &word {
            Word::Nothing => Ok(()),
            Word::Status(patch) => {
                let path = format!("{path}/status");
                ask(&client, "PATCH", &path, Some(STRATEGIC), Some(patch)).await.map(drop)
            }
            Word::Over => {
                let options = json!({
                    "apiVersion": "v1", "kind": "DeleteOptions", "gracePeriodSeconds": 0,
                    "preconditions": {"uid": uid},
                });
                ask(&client, "DELETE", &path, None, Some(&options)).await.map(drop)
            }
        };
        again = match done {
            Ok(()) if matches!(word, Word::Over) => return,
            Ok(()) => false,
            Err(error) if is_another(&error) => return,
            Err(error) => {
                if (400..429).contains(&error.code) && error.code != 409 {
                    println!("{path}: what its agent says is refused: {error}");
                }
                sleep(AGAIN).await;
                true
            }
        };
    }
}

/// It is gone, or another pod has its name.
fn is_another(error: &ApiError) -> bool {
    let of_uid = error.message.contains("UID") || error.message.contains("metadata.uid");
    error.is_missing() || ([409, 422].contains(&error.code) && of_uid)
}
