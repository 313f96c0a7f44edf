//! The manifests of docs/kubernetes: valid for Kubernetes, locked down, and with command lines that this program takes.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use walden_testkit::testbench::Testbench;

use crate::support::{describe, run};

/// Reads files, and files in ConfigMaps of files; refuses what the schemas do not know; prints everything as JSON.
const READ: &str = r"
import json, sys, yaml, kubernetes_validate
version = kubernetes_validate.latest_version()
found = []
def read(text):
    for document in yaml.safe_load_all(text):
        kubernetes_validate.validate(document, version, strict=True)
        found.append(document)
        if document['kind'] == 'ConfigMap':
            for name, inner in document['data'].items():
                if name.endswith('.yaml'):
                    read(inner)
for path in sys.argv[1:]:
    read(open(path).read())
print(json.dumps(found))
";

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/kubernetes")
}

fn documents() -> Vec<Value> {
    let python = Testbench::locate().and_then(|bench| bench.kubernetes_python()).unwrap();
    let mut command = Command::new(python);
    command.args(["-c", READ]);
    let files = ["backup.yaml", "drill.yaml", "postgres.yaml"];
    let output = run(command.args(files.map(|name| directory().join(name))));
    assert!(output.status.success(), "{}", describe(&output));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// All values below this one that a test looks at.
fn all<'a>(value: &'a Value, found: &mut Vec<&'a Value>) {
    found.push(value);
    match value {
        Value::Object(fields) => fields.values().for_each(|value| all(value, found)),
        Value::Array(items) => items.iter().for_each(|value| all(value, found)),
        _ => {}
    }
}

fn everything(documents: &[Value]) -> Vec<&Value> {
    let mut found = Vec::new();
    for document in documents {
        all(document, &mut found);
    }
    found
}

fn pods(documents: &[Value]) -> Vec<&Value> {
    everything(documents).into_iter().filter(|value| value["containers"].is_array()).collect()
}

fn containers(pod: &Value) -> impl Iterator<Item = &Value> {
    let of = |name: &str| pod[name].as_array().map_or(&[][..], Vec::as_slice);
    of("initContainers").iter().chain(of("containers"))
}

fn words(value: &Value) -> Vec<String> {
    let words = value.as_array().map_or(&[][..], Vec::as_slice);
    words.iter().map(|word| word.as_str().unwrap().to_owned()).collect()
}

fn one<'a>(documents: &'a [Value], kind: &str, name: &str) -> &'a Value {
    let mut found =
        documents.iter().filter(|document| document["kind"] == kind && document["metadata"]["name"] == name);
    let one = found.next().unwrap_or_else(|| panic!("{kind} {name}"));
    assert!(found.next().is_none());
    one
}

#[test]
fn every_command_line_is_one_that_this_program_takes() {
    let documents = documents();
    let mut lines: Vec<Vec<String>> = Vec::new();
    for container in pods(&documents).into_iter().flat_map(containers) {
        let command = words(&container["command"]);
        if command.first().is_some_and(|program| program.ends_with("walden")) {
            lines.push(command[1..].to_vec());
        }
        // Settings of the server that run it.
        for argument in words(&container["args"]) {
            if let Some((_, line)) = argument.split_once("_command=") {
                lines.push(line.split_whitespace().skip(1).map(str::to_owned).collect());
            }
        }
    }
    assert_eq!(lines.len(), 5, "{lines:?}");
    for line in &lines {
        // What stands before the last word is parsed, values included; the last word keeps it from being done.
        let mut command = Command::new(env!("CARGO_BIN_EXE_walden"));
        let output = run(command.env_clear().args(line).arg("--help"));
        assert!(output.status.success(), "{line:?} {}", describe(&output));
    }
    let wrong = run(Command::new(env!("CARGO_BIN_EXE_walden")).args(["drill", "--rot", "--help"]));
    assert_eq!(wrong.status.code(), Some(2), "a flag that is not there must be found");
}

#[test]
fn variables_of_the_manifests_are_known() {
    let documents = documents();
    let values = everything(&documents);
    let names: Vec<&str> = values
        .iter()
        .filter_map(|value| value["name"].as_str())
        .filter(|name| name.starts_with("WALDEN_"))
        .collect();
    assert!(names.len() > 8);
    let output = run(Command::new(env!("CARGO_BIN_EXE_walden"))
        .env_clear()
        .envs(names.iter().map(|name| (*name, if *name == "WALDEN_AGENT" { "never" } else { "x" })))
        .env("WALDEN_REPO", "file:///x")
        .args(["config", "show"]));
    assert!(output.status.success(), "{}", describe(&output));
    assert!(output.stderr.is_empty(), "{}", describe(&output));
}

#[test]
fn pods_have_no_more_rights_than_they_need() {
    let documents = documents();
    let pods = pods(&documents);
    assert_eq!(pods.len(), 4);
    for pod in &pods {
        assert_eq!(pod["securityContext"]["runAsNonRoot"], true, "{pod:#}");
        assert_eq!(pod["securityContext"]["seccompProfile"]["type"], "RuntimeDefault");
        if pod["serviceAccountName"].is_null() {
            assert_eq!(pod["automountServiceAccountToken"], false, "{pod:#}");
        }
        for container in containers(pod) {
            let security = &container["securityContext"];
            assert_eq!(security["allowPrivilegeEscalation"], false, "{container:#}");
            assert_eq!(words(&security["capabilities"]["drop"]), ["ALL"]);
            let needs_its_root = container["name"] == "postgres";
            assert_eq!(security["readOnlyRootFilesystem"] == true, !needs_its_root, "{container:#}");
            assert!(container["resources"]["limits"]["memory"].is_string());
        }
    }
    let rules = one(&documents, "ClusterRole", "walden-drill-launcher")["rules"].as_array().unwrap();
    for rule in rules {
        let (resources, verbs) = (words(&rule["resources"]), words(&rule["verbs"]));
        assert!(!resources.iter().chain(&verbs).any(|word| word == "*"), "{rule}");
        if resources.contains(&"secrets".to_owned()) {
            assert_eq!(verbs, ["create"]);
        }
        if verbs.contains(&"delete".to_owned()) {
            assert_eq!(words(&rule["resourceNames"]), ["walden-drill-temporary"]);
        }
    }
}

#[test]
fn a_drill_is_fenced_in_and_goes_again() {
    let documents = documents();
    let job = &one(&documents, "Job", "drill")["spec"];
    let launcher = &one(&documents, "CronJob", "walden-drill")["spec"];
    assert_eq!(launcher["concurrencyPolicy"], "Forbid");
    let deadline = |job: &Value| job["activeDeadlineSeconds"].as_u64().unwrap();
    assert!(deadline(job) < deadline(&launcher["jobTemplate"]["spec"]));
    assert!(job["ttlSecondsAfterFinished"].is_u64());
    // A drill that failed has told so; a second try would only hide it.
    assert_eq!(job["backoffLimit"], 0);
    let volumes = job["template"]["spec"]["volumes"].as_array().unwrap();
    assert!(volumes.iter().any(|volume| volume["ephemeral"].is_object()));
    assert!(
        !volumes
            .iter()
            .any(|volume| volume["persistentVolumeClaim"].is_object() || volume["hostPath"].is_object())
    );

    let policy = &one(&documents, "NetworkPolicy", "drill")["spec"];
    assert_eq!(words(&policy["policyTypes"]), ["Ingress", "Egress"]);
    assert_eq!(policy["ingress"].as_array().map(Vec::len), Some(0));
    assert_eq!(policy["podSelector"], serde_json::json!({}));
    for rule in policy["egress"].as_array().unwrap() {
        let ports: Vec<u64> =
            rule["ports"].as_array().unwrap().iter().map(|port| port["port"].as_u64().unwrap()).collect();
        assert!(ports == [53, 53] || ports == [443], "{rule}");
    }
    let quota = &one(&documents, "ResourceQuota", "drill")["spec"]["hard"];
    assert!(quota["requests.storage"].is_string() && quota["pods"].is_string());
    for document in &documents {
        let inside = ["ResourceQuota", "NetworkPolicy", "Job"].iter().any(|kind| document["kind"] == *kind);
        assert_eq!(document["metadata"]["namespace"] == "walden-drill-temporary", inside, "{document:#}");
    }
    // Its deadline leaves time for the cleaning up.
    let files = &one(&documents, "ConfigMap", "walden-drill")["data"];
    let script = files["launch.sh"].as_str().unwrap();
    let output = run(Command::new("sh").args(["-n", "-c", script]));
    assert!(output.status.success(), "{}", describe(&output));
    assert!(script.contains("trap clean_up EXIT"));
    for name in script.split_whitespace().filter_map(|word| word.strip_prefix("/etc/walden-drill/")) {
        assert!(files[name].is_string(), "{name}");
    }
}
