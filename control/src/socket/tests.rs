//! Both ends over a real socket, with a loop that answers from a fake state.

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::client::{ClientError, ask};
use super::wire::{Counters, Flows, Status};
use super::*;

/// Runs `story` beside a server whose loop answers every query with its own echo.
fn with_server<F: Future<Output = ()>>(story: impl FnOnce(PathBuf) -> F) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("made/on/demand/t.sock");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let socket = Socket::bind(&path).unwrap();
        let (asks, mut asked) = mpsc::channel::<Ask>(4);
        let server = tokio::spawn(socket.serve(asks));
        let answering = tokio::spawn(async move {
            while let Some(ask) = asked.recv().await {
                let _ = ask.answer.send(fake(&ask.query));
            }
        });
        tokio::time::timeout(Duration::from_secs(20), story(path.clone())).await.unwrap();
        answering.abort();
        let _ = answering.await;
        tokio::time::timeout(Duration::from_secs(20), server).await.unwrap().unwrap();
    });
    assert!(!path.exists(), "the socket's file is left behind");
}

fn fake(query: &Query) -> Answer {
    match query {
        Query::Flows { service, limit } => Answer::Flows(Flows {
            matched: *limit as u64 + service.as_ref().map_or(0, |name| name.len() as u64),
            ..Flows::default()
        }),
        Query::Services => Answer::Services(wire::Services::default()),
        Query::Counters => Answer::Counters(Counters {
            counters: [("received".to_owned(), 7)].into(),
            ..Counters::default()
        }),
        Query::Status => Answer::Status(Status { ready: true, ..Status::default() }),
        Query::Explain(_) => Answer::Explanation(None),
    }
}

async fn raw(path: &Path, request: &str) -> String {
    let mut stream = UnixStream::connect(path).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    text
}

#[test]
fn every_question_has_its_answer() {
    with_server(async |path| {
        let flows = ask(&path, &Query::Flows { service: Some("web".into()), limit: 5 }).await.unwrap();
        assert_eq!(serde_json::from_slice::<Flows>(&flows).unwrap().matched, 8);
        let counters = ask(&path, &Query::Counters).await.unwrap();
        assert_eq!(serde_json::from_slice::<Counters>(&counters).unwrap().counters["received"], 7);
        let status = ask(&path, &Query::Status).await.unwrap();
        assert!(serde_json::from_slice::<Status>(&status).unwrap().ready);
        let services = ask(&path, &Query::Services).await.unwrap();
        assert_eq!(serde_json::from_slice::<wire::Services>(&services).unwrap(), wire::Services::default());
    });
}

#[test]
fn what_is_not_there_and_what_would_change_something_is_refused() {
    with_server(async |path| {
        let end = "host: x\r\nconnection: close\r\n\r\n";
        let missing = raw(&path, &format!("GET /v1/nothing HTTP/1.1\r\n{end}")).await;
        assert!(missing.starts_with("HTTP/1.1 404") && missing.contains("/v1/flows"), "{missing}");
        let changing = raw(&path, &format!("POST /v1/flows HTTP/1.1\r\n{end}")).await;
        assert!(changing.starts_with("HTTP/1.1 405") && changing.contains("allow: GET"), "{changing}");
        let garbled = raw(&path, &format!("GET /v1/flows?limit=x HTTP/1.1\r\n{end}")).await;
        assert!(garbled.starts_with("HTTP/1.1 400"), "{garbled}");
        for odd in ["a b", "a&limit=2", "a#b", "ä", "A\n"] {
            let refused = ask(&path, &Query::Flows { service: Some(odd.into()), limit: 1 }).await;
            let refused = refused.unwrap_err();
            assert!(matches!(&refused, ClientError::Unaskable(name) if name == odd), "{refused}");
        }
    });
}

#[test]
fn only_the_owner_may_open_it_and_a_second_server_is_refused() {
    with_server(async |path| {
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let second = Socket::bind(&path).unwrap_err();
        assert_eq!(second.kind(), io::ErrorKind::AddrInUse);
        assert!(ask(&path, &Query::Status).await.is_ok(), "the first is undisturbed");
    });
}

#[test]
fn a_file_that_is_no_socket_is_never_removed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("precious.yaml");
    std::fs::write(&path, "keep me").unwrap();
    let refused = Socket::bind(&path).unwrap_err();
    assert!(
        refused.to_string().contains("no socket") && refused.to_string().contains("--socket"),
        "{refused}"
    );
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "keep me");
}

#[test]
fn a_dead_servers_file_is_replaced_and_a_missing_one_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("t.sock");
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let gone = ask(&path, &Query::Status).await.unwrap_err();
        assert!(gone.to_string().contains("t.sock") && gone.to_string().contains("tunway run"), "{gone}");
        drop(Socket::bind(&path).unwrap());
    });
    assert!(!path.exists());
}
