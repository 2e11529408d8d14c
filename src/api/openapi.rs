//! The OpenAPI document, from one table of the endpoints.

use axum::Json;
use serde_json::{Map, Value, json};

/// Method, path, query parameters, summary.
const ENDPOINTS: &[(&str, &str, &[&str], &str)] = &[
    ("get", "/health", &[], "Whether the appliance works, and what is wrong"),
    ("get", "/status", &[], "Everything there is to see at this moment"),
    ("get", "/pipelines", &[], "The pipelines and their counters"),
    ("post", "/pipelines/{id}/start", &[], "Feed a pipeline again"),
    ("post", "/pipelines/{id}/stop", &[], "Feed a pipeline no longer; its state stays"),
    ("get", "/pipelines/{id}/stats", &[], "One pipeline's counters"),
    ("get", "/watermarks", &[], "Watermarks by stream and partition"),
    ("get", "/state", &["prefix"], "Keyed state below a prefix"),
    ("get", "/windows", &["pipeline", "limit"], "Open windows, by start"),
    ("post", "/checkpoint", &[], "Write a checkpoint now"),
    ("get", "/streams/{id}/recent", &["rows", "duration"], "The newest rows of a stream"),
    ("get", "/streams/{id}/history", &["from", "to", "where", "limit"], "Rows from the journal, both ends included"),
    ("get", "/voxels/{grid}", &["layer", "since", "level", "limit"], "Voxels of a grid; `complete` says whether those are all"),
    ("get", "/voxels/{grid}/layers", &[], "The layers of a grid in figures"),
    ("get", "/voxels/{grid}/layers/{layer}", &[], "A layer in figures, by region too, and the voxels missing from it"),
    ("get", "/voxels/{grid}/region", &["lower", "upper"], "The rows of a box in figures; its corners as x,y,z in mm"),
    ("post", "/pipelines/{id}/validate", &["checkpoint"], "Which checkpoints hold for rows (JSON), or for the newest row"),
    ("get", "/charts/{id}", &[], "A control chart, by key"),
    ("post", "/charts/{id}/rebaseline", &[], "Collect a new baseline: {\"author\", \"reason\", \"key\"}; without a key, for all"),
    (
        "post",
        "/charts/{id}/exclude",
        &[],
        "Take points out of a baseline: {\"indices\", \"author\", \"reason\", \"key\"}; limits come anew",
    ),
    ("get", "/alerts", &["severity", "source", "acknowledged", "from", "limit"], "What was raised, newest first"),
    ("post", "/alerts/{id}/acknowledge", &[], "Take note of an alert: {\"name\", \"note\"}"),
    ("get", "/dead-letters", &["after", "limit"], "What was refused, oldest first, without the raw bytes"),
    ("post", "/dead-letters/{number}/resubmit", &[], "Take a refused message again, as rows of its stream"),
    ("get", "/events", &["kind"], "Results as server-sent events"),
    ("post", "/rows", &["stream"], "Take in rows; 202 once they are durable"),
    ("get", "/metrics", &[], "Metrics in the Prometheus text format"),
];

/// `GET /openapi.json`.
pub async fn document() -> Json<Value> {
    Json(build())
}

fn build() -> Value {
    let mut paths: Map<String, Value> = Map::new();
    for (method, path, query, summary) in ENDPOINTS {
        let item = paths.entry((*path).to_owned()).or_insert_with(|| json!({}));
        item[*method] = operation(method, path, query, summary);
    }
    json!({
        "openapi": "3.1.0",
        "info": {"title": "qadf-edge", "version": env!("CARGO_PKG_VERSION")},
        "paths": paths,
        "components": {"schemas": {"Problem": {
            "type": "object",
            "required": ["title", "status", "detail"],
            "properties": {
                "type": {"type": "string"}, "title": {"type": "string"},
                "status": {"type": "integer"}, "detail": {"type": "string"},
            },
        }}},
    })
}

fn operation(method: &str, path: &str, query: &[&str], summary: &str) -> Value {
    let in_path = path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'));
    let parameters: Vec<Value> = in_path
        .map(|name| json!({"name": name, "in": "path", "required": true, "schema": {"type": "string"}}))
        .chain(query.iter().map(|name| json!({"name": name, "in": "query", "schema": {"type": "string"}})))
        .collect();
    let good = if path == "/rows" { "202" } else { "200" };
    let mut operation = json!({
        "summary": summary,
        "parameters": parameters,
        "responses": {
            good: {"description": "done"},
            "default": {
                "description": "what is wrong",
                "content": {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}},
            },
        },
    });
    if method == "post" {
        operation["requestBody"] = json!({"content": {"application/json": {"schema": {}}}});
    }
    operation
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_path_parameter_is_described() {
        let document = build();
        let stats = &document["paths"]["/pipelines/{id}/stats"]["get"]["parameters"];
        assert_eq!(stats[0]["name"], "id");
        assert_eq!(document["paths"].as_object().map(Map::len), Some(ENDPOINTS.len()));
    }
}
