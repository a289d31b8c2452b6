//! Metrics over HTTP/1.1, one request a connection.

use super::super::metrics;
use super::super::observed::Observed;

/// What metrics are in: OpenMetrics, which is Prometheus text made precise.
const TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Header lines of a request.
const HEADERS: usize = 64;

/// The answer to the request in `input`, `None` if it is not all there yet.
pub(super) fn answer(input: &[u8], observed: &Observed) -> Option<Vec<u8>> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS];
    let mut request = httparse::Request::new(&mut headers);
    match request.parse(input) {
        Ok(httparse::Status::Partial) => None,
        Ok(httparse::Status::Complete(_)) => {
            let method = request.method.unwrap_or_default();
            let path = request.path.unwrap_or_default();
            let path = path.split_once('?').map_or(path, |(path, _)| path);
            Some(match (method, path) {
                ("GET" | "HEAD", "/metrics") => {
                    let body = metrics::text(&observed.status(), &observed.details());
                    whole("200 OK", TYPE, &body, method == "GET")
                }
                ("GET" | "HEAD", _) => {
                    let hint = "There is /metrics here, and nothing else.\n";
                    whole("404 Not Found", "text/plain", hint, method == "GET")
                }
                _ => whole("405 Method Not Allowed", "text/plain", "GET /metrics\n", true),
            })
        }
        Err(error) => {
            let text = format!("{error}\n");
            Some(whole("400 Bad Request", "text/plain", &text, true))
        }
    }
}

fn whole(status: &str, kind: &str, body: &str, with_body: bool) -> Vec<u8> {
    let allow = if status.starts_with("405") { "Allow: GET, HEAD\r\n" } else { "" };
    let mut answer = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n{allow}Connection: \
         close\r\n\r\n",
        body.len()
    );
    if with_body {
        answer.push_str(body);
    }
    answer.into_bytes()
}
