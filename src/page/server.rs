//! The page over HTTP: files, what the hub knows as JSON, and what is new as server-sent events (WHATWG HTML, 9.2).

use std::{convert::Infallible, net::SocketAddr, sync::Arc, time::Duration};

use axum::{
    Form, Router,
    extract::{DefaultBodyLimit, Path, Request, State},
    http::{HeaderName, HeaderValue, StatusCode, header},
    middleware::{Next, from_fn, from_fn_with_state},
    response::{
        Html, IntoResponse, Redirect, Response,
        sse::{Event, KeepAlive, Sse},
    },
    routing::{get, post},
};
use futures::Stream;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use serde::Deserialize;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore, watch},
};
use tokio_util::sync::CancellationToken;

use super::{
    access::{Access, Answer},
    hub::{Cursor, Hub},
};
use crate::{
    clock,
    error::{Error, ErrorKind, Result},
};

/// Connections at the same time; others wait.
const CONNECTIONS_MAX: usize = 64;
/// Of these wait for events.
const READERS_MAX: usize = 24;
/// A reader hears of changes at most so often.
const EVENT_INTERVAL: Duration = Duration::from_millis(250);
/// A connection that says nothing is closed after this time.
const HEADERS_WITHIN: Duration = Duration::from_secs(20);
/// Bytes of a form.
const FORM_BYTES_MAX: usize = 1 << 10;
/// How long it may take to arrive.
const FORM_WITHIN: Duration = Duration::from_secs(10);
/// A reader that takes nothing of what was sent is given up after this time.
#[cfg(target_os = "linux")]
const STALLED_AFTER: Duration = Duration::from_secs(30);
/// After a wrong token.
const WRONG_TOKEN_PAUSE: Duration = Duration::from_secs(1);
/// How long readers get, at the end, to hear of it.
const CLOSE_WITHIN: Duration = Duration::from_secs(1);

const INDEX: &str = include_str!("assets/index.html");
const LOGIN: &str = include_str!("assets/login.html");
/// Name, type, content.
const ASSETS: [(&str, &str, &str); 7] = [
    ("page.js", "text/javascript", include_str!("assets/page.js")),
    ("model.js", "text/javascript", include_str!("assets/model.js")),
    ("charts.js", "text/javascript", include_str!("assets/charts.js")),
    ("format.js", "text/javascript", include_str!("assets/format.js")),
    ("page.css", "text/css", include_str!("assets/page.css")),
    ("uplot.js", "text/javascript", include_str!("assets/uplot.js")),
    ("uplot.css", "text/css", include_str!("assets/uplot.css")),
];

/// Nothing comes from elsewhere, nothing is embedded elsewhere, nothing is kept.
const HEADERS: [(HeaderName, &str); 5] = [
    (
        header::CONTENT_SECURITY_POLICY,
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; \
         form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    ),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::X_FRAME_OPTIONS, "DENY"),
    (header::REFERRER_POLICY, "no-referrer"),
    (header::CACHE_CONTROL, "no-store"),
];

/// Where the page is, and who may look.
#[derive(Debug, Clone)]
pub struct PageOptions {
    pub address: SocketAddr,
    /// How many ports above it are tried if it is taken.
    pub more_ports: u16,
    pub token: Option<String>,
}

/// The page of one job. It ends with this value.
#[derive(Debug)]
pub struct Page {
    address: SocketAddr,
    hub: Arc<Hub>,
    connections: Arc<Semaphore>,
    closing: CancellationToken,
}

#[derive(Debug, Clone)]
struct Shared {
    hub: Arc<Hub>,
    access: Access,
    readers: Arc<Semaphore>,
    closing: CancellationToken,
}

impl Page {
    /// Opens the page of the job of this name.
    ///
    /// # Errors
    /// `Invalid` if it needs a token, and if the address cannot be used.
    pub async fn open(options: &PageOptions, job: &str) -> Result<Self> {
        let listener = bind(options).await?;
        let failed = |error: std::io::Error| Error::internal("the page has no address").source_error(error);
        let address = listener.local_addr().map_err(failed)?;
        let access = Access::new(address, options.token.as_deref())?;
        let (hub, closing) = (Arc::new(Hub::new(job)), CancellationToken::new());
        let readers = Arc::new(Semaphore::new(READERS_MAX));
        let shared = Shared { hub: Arc::clone(&hub), access, readers, closing: closing.clone() };
        let connections = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        tokio::spawn(accept(listener, router(shared), Arc::clone(&connections), closing.clone()));
        Ok(Self { address, hub, connections, closing })
    }

    /// What the browser is told.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Hears of the queries.
    pub fn hub(&self) -> Arc<Hub> {
        Arc::clone(&self.hub)
    }

    /// Tells all readers how it ended, and closes.
    pub async fn close(self) {
        self.closing.cancel();
        let all = u32::try_from(CONNECTIONS_MAX).unwrap_or(u32::MAX);
        tokio::select! {
            _ = self.connections.acquire_many(all) => {}
            () = clock::sleep(CLOSE_WITHIN) => {}
        }
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        self.closing.cancel();
    }
}

async fn bind(options: &PageOptions) -> Result<TcpListener> {
    // Before a port is open for a moment.
    Access::new(options.address, options.token.as_deref())?;
    let first = options.address.port();
    let last = if first == 0 { 0 } else { first.saturating_add(options.more_ports) };
    let mut failure = None;
    for port in first..=last {
        match TcpListener::bind(SocketAddr::new(options.address.ip(), port)).await {
            Ok(listener) => return Ok(listener),
            Err(error) => failure = Some(error),
        }
    }
    let error = Error::new(ErrorKind::Invalid, format!("the page cannot be opened at {}", options.address))
        .help("another program may have the port: name another one with --ui, or 0 for any that is free");
    Err(match failure {
        Some(failure) => error.source_error(failure),
        None => error,
    })
}

async fn accept(listener: TcpListener, app: Router, connections: Arc<Semaphore>, closing: CancellationToken) {
    loop {
        let Ok(permit) = Arc::clone(&connections).acquire_owned().await else { return };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = closing.cancelled() => return,
        };
        match accepted {
            Ok((stream, _)) => drop(tokio::spawn(serve(stream, app.clone(), closing.clone(), permit))),
            Err(error) => {
                // Too many open files, for one: it may pass.
                tracing::warn!(%error, "the page cannot take a connection");
                clock::sleep(EVENT_INTERVAL).await;
            }
        }
    }
}

async fn serve(stream: TcpStream, app: Router, closing: CancellationToken, permit: OwnedSemaphorePermit) {
    #[cfg(target_os = "linux")]
    if let Err(error) = socket2::SockRef::from(&stream).set_tcp_user_timeout(Some(STALLED_AFTER)) {
        tracing::debug!(%error, "a reader that stalls is not given up");
    }
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADERS_WITHIN)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(app));
    tokio::pin!(connection);
    let mut is_closing = false;
    loop {
        tokio::select! {
            result = connection.as_mut() => {
                if let Err(error) = result {
                    tracing::debug!(%error, "a connection of the page broke off");
                }
                break;
            }
            () = closing.cancelled(), if !is_closing => {
                is_closing = true;
                connection.as_mut().graceful_shutdown();
            }
        }
    }
    drop(permit);
}

fn router(shared: Shared) -> Router {
    let guarded = Router::new()
        .route("/", get(|| async { Html(INDEX) }))
        .route("/assets/{name}", get(asset))
        .route("/api/state", get(state))
        .route("/api/events", get(events))
        .fallback(|| async { (StatusCode::NOT_FOUND, "there is no such page\n") })
        .layer(from_fn_with_state(shared.clone(), guard));
    Router::new()
        .merge(guarded)
        .route("/login", post(login).get(|| async { Redirect::to("./") }).layer(from_fn(in_time)))
        .layer(DefaultBodyLimit::max(FORM_BYTES_MAX))
        .layer(axum::middleware::map_response(with_headers))
        .with_state(shared)
}

async fn with_headers(mut response: Response) -> Response {
    for (name, value) in HEADERS {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

async fn guard(State(shared): State<Shared>, request: Request, next: Next) -> Response {
    let path = request.uri().path();
    match shared.access.check(request.headers()) {
        Answer::Welcome => next.run(request).await,
        // What the form looks like is no secret.
        Answer::TokenNeeded if path == "/assets/page.css" => next.run(request).await,
        Answer::TokenNeeded if path == "/" => {
            (StatusCode::UNAUTHORIZED, Html(LOGIN.replace("<!-- note -->", ""))).into_response()
        }
        Answer::TokenNeeded => {
            let asked = [(header::WWW_AUTHENTICATE, "Bearer")];
            (StatusCode::UNAUTHORIZED, asked, "a token is needed: send Authorization: Bearer TOKEN\n").into_response()
        }
        Answer::WrongHost => {
            let why = "this page is for this machine: open it as http://localhost, or give it a token\n";
            (StatusCode::FORBIDDEN, why).into_response()
        }
    }
}

/// A form that does not come must not hold a connection.
async fn in_time(request: Request, next: Next) -> Response {
    tokio::select! {
        response = next.run(request) => response,
        () = clock::sleep(FORM_WITHIN) => (StatusCode::REQUEST_TIMEOUT, "the form did not come\n").into_response(),
    }
}

#[derive(Deserialize)]
struct Login {
    token: String,
}

async fn login(State(shared): State<Shared>, Form(login): Form<Login>) -> Response {
    if shared.access.is_token(login.token.trim()) {
        return ([(header::SET_COOKIE, shared.access.set_cookie())], Redirect::to("./")).into_response();
    }
    clock::sleep(WRONG_TOKEN_PAUSE).await;
    let page = LOGIN.replace("<!-- note -->", "<p class=\"failure\">That is not the token.</p>");
    (StatusCode::UNAUTHORIZED, Html(page)).into_response()
}

async fn asset(Path(name): Path<String>) -> Response {
    match ASSETS.iter().find(|(known, ..)| *known == name) {
        Some((_, kind, content)) => {
            ([(header::CONTENT_TYPE, format!("{kind}; charset=utf-8"))], *content).into_response()
        }
        None => (StatusCode::NOT_FOUND, "there is no such file\n").into_response(),
    }
}

async fn state(State(shared): State<Shared>) -> Response {
    let json = shared.hub.since(&mut Cursor::default()).to_string();
    ([(header::CONTENT_TYPE, "application/json")], json).into_response()
}

async fn events(State(shared): State<Shared>) -> Response {
    match Arc::clone(&shared.readers).try_acquire_owned() {
        Ok(permit) => Sse::new(news(shared, permit)).keep_alive(KeepAlive::default()).into_response(),
        Err(_) => {
            let why = format!("{READERS_MAX} pages are open already: close one\n");
            (StatusCode::SERVICE_UNAVAILABLE, why).into_response()
        }
    }
}

struct Reader {
    shared: Shared,
    changes: watch::Receiver<u64>,
    cursor: Cursor,
    has_begun: bool,
    is_over: bool,
    /// One of those that may wait.
    _permit: OwnedSemaphorePermit,
}

/// All that there is, then what is new, until the job ends: that is news too.
fn news(shared: Shared, permit: OwnedSemaphorePermit) -> impl Stream<Item = Result<Event, Infallible>> {
    let changes = shared.hub.changes();
    let reader =
        Reader { shared, changes, cursor: Cursor::default(), has_begun: false, is_over: false, _permit: permit };
    futures::stream::unfold(reader, |mut reader| async move {
        if reader.is_over {
            return None;
        }
        if std::mem::replace(&mut reader.has_begun, true) {
            let closing = reader.shared.closing.clone();
            let changed = async {
                clock::sleep(EVENT_INTERVAL).await;
                reader.changes.changed().await.is_ok()
            };
            reader.is_over = tokio::select! {
                has_changed = changed => !has_changed,
                () = closing.cancelled() => true,
            };
        }
        reader.changes.mark_unchanged();
        let news = reader.shared.hub.since(&mut reader.cursor);
        Some((Ok(Event::default().data(news.to_string())), reader))
    })
}
