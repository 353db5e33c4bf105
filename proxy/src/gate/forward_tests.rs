#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use http_body_util::StreamBody;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};

use super::*;
use crate::config::Limits;
use crate::gate::spelling::Spelling;

const PATIENCE: Duration = Duration::from_secs(10);
const PIECE: &[u8] = b"a piece of the body";

type Pieces = mpsc::UnboundedSender<io::Result<Frame<Bytes>>>;

/// A connection to a server, whose end this is, with room for so many bytes that it has not read.
async fn connection(room: usize) -> (Sender, DuplexStream) {
    let (near, far) = duplex(room);
    (Sender::begin(near, &Limits::default(), Spelling::LOWER).await.unwrap(), far)
}

/// A request whose body is what is sent here, and ends when this is dropped.
fn upload(turns: &Turns) -> (Pieces, Request<RequestBody>) {
    let (pieces, mut come) = mpsc::unbounded_channel();
    let body = StreamBody::new(futures_util::stream::poll_fn(move |cx| come.poll_recv(cx)));
    let body = Upload::new(RequestBody::new(body), turns.clone());
    (pieces, Request::post("/").body(RequestBody::new(body)).unwrap())
}

fn send(pieces: &Pieces) {
    pieces.send(Ok(Frame::data(Bytes::from_static(PIECE)))).unwrap();
}

fn refusal(answer: Result<Response<Incoming>, Unanswered>) -> Refusal {
    match answer {
        Err(Unanswered::Failed(failure)) => failure.refusal,
        Err(Unanswered::Unsent(..)) => panic!("nothing was sent"),
        Ok(response) => panic!("answered: {}", response.status()),
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_is_silent_in_its_body_is_late_and_no_server() {
    let (turns, (mut sender, mut server)) = (Turns::new(), connection(1 << 20).await);
    let (pieces, request) = upload(&turns);
    let client = async {
        // Longer than the server would have, but never that long silent.
        for _ in 0..5 {
            send(&pieces);
            sleep(PATIENCE - Duration::from_secs(1)).await;
        }
        send(&pieces);
        Instant::now()
    };
    let (answer, last) = tokio::join!(ask(&mut sender, request, &turns, PATIENCE), client);
    let refusal = refusal(answer);
    assert_eq!(refusal, Refusal::BodyTimeout);
    assert!(!Failure::from(refusal).is_the_servers());
    // The clock stands still but for the timers.
    assert_eq!(last.elapsed().as_secs(), PATIENCE.as_secs());
    drop(sender);
    let mut read = Vec::new();
    server.read_to_end(&mut read).await.unwrap();
    assert_eq!(read.windows(PIECE.len()).filter(|window| *window == PIECE).count(), 6, "each piece went on at once");
}

#[tokio::test(start_paused = true)]
async fn the_servers_time_begins_behind_the_last_byte() {
    let (turns, (mut sender, _server)) = (Turns::new(), connection(1 << 20).await);
    let (pieces, request) = upload(&turns);
    let client = async {
        send(&pieces);
        sleep(PATIENCE - Duration::from_secs(1)).await;
        drop(pieces);
        Instant::now()
    };
    let (answer, ended) = tokio::join!(ask(&mut sender, request, &turns, PATIENCE), client);
    let refusal = refusal(answer);
    assert_eq!(refusal, Refusal::ResponseTimeout);
    assert!(Failure::from(refusal).is_the_servers());
    assert_eq!(ended.elapsed().as_secs(), PATIENCE.as_secs());
}

#[tokio::test(start_paused = true)]
async fn a_server_that_takes_nothing_of_a_body_is_late() {
    let (turns, (mut sender, _server)) = (Turns::new(), connection(64).await);
    let (pieces, request) = upload(&turns);
    // More than the connection and the HTTP library hold.
    (0..100_000).for_each(|_| send(&pieces));
    assert_eq!(refusal(ask(&mut sender, request, &turns, PATIENCE).await), Refusal::ResponseTimeout);
}

#[tokio::test(start_paused = true)]
async fn a_server_may_answer_before_the_body_has_ended() {
    let (turns, (mut sender, mut server)) = (Turns::new(), connection(1 << 20).await);
    let (pieces, request) = upload(&turns);
    send(&pieces);
    let serve = async {
        server.read_u8().await.unwrap();
        server.write_all(b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 0\r\n\r\n").await.unwrap();
    };
    let (answer, ()) = tokio::join!(ask(&mut sender, request, &turns, PATIENCE), serve);
    assert!(answer.is_ok_and(|response| response.status() == StatusCode::PAYLOAD_TOO_LARGE));
}

/// What stands still behind an answer is given up, and not before.
#[tokio::test(start_paused = true)]
async fn the_rest_of_a_body_goes_on_behind_its_answer_as_long_as_it_moves() {
    for ends in [true, false] {
        let (turns, (mut sender, mut server)) = (Turns::new(), connection(1 << 20).await);
        let (pieces, request) = upload(&turns);
        send(&pieces);
        let serve = async {
            server.read_u8().await.unwrap();
            server.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await.unwrap();
        };
        let (answer, ()) = tokio::join!(ask(&mut sender, request, &turns, PATIENCE), serve);
        assert!(answer.is_ok());
        let client = async {
            for _ in 0..5 {
                sleep(REST_PATIENCE - Duration::from_millis(1)).await;
                send(&pieces);
            }
            if ends {
                drop(pieces);
            } else {
                sleep(REST_PATIENCE).await;
            }
            Instant::now()
        };
        let (free, last) = tokio::join!(is_free(&mut sender, &turns, REST_PATIENCE), client);
        assert_eq!((free, last.elapsed().as_millis() < 10), (ends, true));
    }
}

#[tokio::test]
async fn an_answer_is_read_although_its_server_closes_behind_it() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let near = tokio::net::TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (mut server, _) = listener.accept().await.unwrap();
    let mut sender = Sender::begin(near, &Limits::default(), Spelling::LOWER).await.unwrap();
    let turns = Turns::new();
    let (pieces, request) = upload(&turns);
    send(&pieces);
    let serve = async {
        server.read_u8().await.unwrap();
        server.write_all(b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 4\r\n\r\n").await.unwrap();
        (server, pieces)
    };
    let (answer, (mut server, pieces)) = tokio::join!(ask(&mut sender, request, &turns, PATIENCE), serve);
    server.write_all(b"said").await.unwrap();
    // With bytes that nobody has read: a reset follows.
    drop(server);
    // Each of them is written, and fails.
    for _ in 0..100 {
        let _ended = pieces.send(Ok(Frame::data(Bytes::from_static(PIECE))));
        tokio::task::yield_now().await;
    }
    let body = answer.ok().unwrap().into_body().collect().await.unwrap().to_bytes();
    assert_eq!(body, "said");
}

#[test]
fn what_may_be_sent_twice() {
    let whole = |method: Method| Request::builder().method(method).header("x-a", "b").uri("/p");
    let empty = || RequestBody::new(Empty::new().map_err(|never| match never {}));
    for method in [Method::GET, Method::HEAD, Method::OPTIONS, Method::PUT, Method::DELETE] {
        let again = copy(&whole(method.clone()).body(empty()).unwrap()).unwrap();
        assert_eq!(
            (again.method(), again.uri().path(), &again.headers()["x-a"]),
            (&method, "/p", &"b".parse().unwrap())
        );
    }
    for method in [Method::POST, Method::PATCH, Method::from_bytes(b"LOCK").unwrap()] {
        assert!(copy(&whole(method).body(empty()).unwrap()).is_none());
    }
    assert!(copy(&upload(&Turns::new()).1).is_none(), "a body may be sent once");
}
