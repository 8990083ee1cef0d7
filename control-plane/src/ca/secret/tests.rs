//! The Secret against an API server that keeps it: made once, waited for, and replaced in order.

use super::*;
use crate::test_support::api::{Answer, Api as Fake};
use serde_json::{Value, json};
use std::sync::Mutex;
use tokio::sync::watch;

#[derive(Clone)]
struct Server {
    secret: Arc<Mutex<(Value, u64)>>,
    fake: Fake,
}

impl Server {
    fn new(data: Value) -> Self {
        let secret = Arc::new(Mutex::new((data, 1_u64)));
        let fake = Fake::new({
            let secret = secret.clone();
            move |request| {
                assert_eq!(request.path, "/api/v1/namespaces/heddle-system/secrets/heddle-ca");
                let (data, version) = &mut *secret.lock().unwrap();
                if request.method == "PUT" {
                    if request.body["metadata"]["resourceVersion"] != json!(version.to_string()) {
                        return Answer::refused(409, "Conflict");
                    }
                    *data = request.body["data"].clone();
                    *version += 1;
                }
                let metadata = json!({"name": "heddle-ca", "namespace": "heddle-system", "resourceVersion": version.to_string()});
                Answer::ok(json!({"metadata": metadata, "type": "Opaque", "data": data}))
            }
        });
        Self { secret, fake }
    }

    fn put(&self, authority: &CertificateAuthority, roots: &str) {
        let AuthorityPem { key, certificate } = authority.to_pem();
        let data = [("tls.key", key), ("tls.crt", certificate), ("ca.crt", roots.to_owned())];
        let data: BTreeMap<_, _> = data.into_iter().map(|(name, text)| (name, ByteString(text.into_bytes()))).collect();
        let mut secret = self.secret.lock().unwrap();
        *secret = (json!(data), secret.1 + 1);
    }

    fn store(&self) -> Store {
        Store::new(self.fake.client(), "heddle-system", &domain())
    }
}

fn domain() -> TrustDomain {
    "cluster.local".parse().unwrap()
}

fn authority() -> CertificateAuthority {
    CertificateAuthority::create(&domain(), unix_now()).unwrap()
}

fn roots(authority: &CertificateAuthority) -> String {
    authority.trust_bundle().to_pem(&domain())
}

/// A replica that leads from the moment at which the sender says so.
fn leadership(leads: bool) -> (watch::Sender<Option<Instant>>, Leadership) {
    let (sender, receiver) = watch::channel(leads.then(|| Instant::now() + Duration::from_secs(3600)));
    (sender, Leadership::new(receiver))
}

#[tokio::test(start_paused = true)]
async fn the_leader_fills_the_empty_secret_and_the_other_replica_takes_what_is_there() {
    let server = Server::new(Value::Null);
    let (_led, follows) = leadership(false);
    let (_leading, leads) = leadership(true);
    let (other, leader) = (server.store(), server.store());
    let (other, leader) = tokio::join!(other.open(&follows), leader.open(&leads));
    let ((other, _), (leader, _)) = (other.unwrap(), leader.unwrap());
    assert_eq!(other.trust(), leader.trust());
    let written = server.fake.requests().iter().filter(|request| request.method == "PUT").count();
    assert_eq!(written, 1);
    assert_eq!(server.secret.lock().unwrap().0.as_object().unwrap().len(), 3);
}

#[tokio::test(start_paused = true)]
async fn of_two_that_believe_to_lead_one_root_remains() {
    let server = Server::new(json!({}));
    let (_leading, leads) = leadership(true);
    let (a, b) = (server.store(), server.store());
    let (a, b) = tokio::join!(a.open(&leads), b.open(&leads));
    assert_eq!(a.unwrap().0.trust(), b.unwrap().0.trust());
}

#[tokio::test(start_paused = true)]
async fn an_outside_authority_is_used_as_it_is_and_never_written() {
    let server = Server::new(Value::Null);
    let outside = authority();
    server.put(&outside, &roots(&outside));
    let (_leading, leads) = leadership(true);
    let (ca, _) = server.store().open(&leads).await.unwrap();
    assert_eq!(*ca.trust(), *outside.trust_bundle());
    assert!(server.fake.requests().iter().all(|request| request.method == "GET"));
}

#[tokio::test]
async fn a_bad_secret_is_named_and_not_quoted() {
    let (own, other) = (authority(), authority());
    let server = Server::new(json!({"tls.key": ByteString(b"text".to_vec())}));
    let error = server.store().look().await.err().unwrap().to_string();
    assert!(error.contains("heddle-system/heddle-ca") && error.contains("no usable tls.crt"), "{error}");
    server.put(&own, &roots(&other));
    let error = server.store().look().await.err().unwrap().to_string();
    assert!(error.contains("do not verify") && !error.contains("PRIVATE"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_changed_secret_is_trusted_first_then_signs_and_the_old_root_fades() {
    let server = Server::new(Value::Null);
    let (old, new) = (authority(), authority());
    server.put(&old, &roots(&old));
    let (_leading, leads) = leadership(false);
    let store = server.store();
    let (ca, seen) = store.open(&leads).await.unwrap();
    let ca = Arc::new(ca);
    let mut changes = ca.changes();
    let lifetime = Duration::from_secs(60);
    let keeping = tokio::spawn(keep(store, ca.clone(), seen, move || lifetime));

    server.put(&new, &roots(&new));
    changes.changed().await.unwrap();
    assert_eq!(ca.trust().roots(&domain()).len(), 2);
    assert_eq!(ca.authority().trust_bundle(), old.trust_bundle(), "the new key does not sign yet");
    let trusted = Instant::now();
    changes.changed().await.unwrap();
    assert_eq!(ca.authority().trust_bundle(), new.trust_bundle());
    assert_eq!(ca.trust().roots(&domain()).len(), 2);
    assert_eq!(trusted.elapsed().as_secs(), SETTLE.as_secs());
    changes.changed().await.unwrap();
    assert_eq!(*ca.trust(), *new.trust_bundle());
    assert!(trusted.elapsed() >= SETTLE + lifetime);

    // What is not usable changes nothing.
    let requests = server.fake.requests().len();
    server.secret.lock().unwrap().0 = json!({"tls.key": "eA=="});
    while server.fake.requests().len() < requests + 3 {
        tokio::time::sleep(LOOK).await;
    }
    assert!(!changes.has_changed().unwrap());
    keeping.abort();
}

#[tokio::test(start_paused = true)]
async fn a_secret_that_was_emptied_is_filled_again_with_the_authority_in_use() {
    let server = Server::new(Value::Null);
    let (_leading, leads) = leadership(true);
    let store = server.store();
    let (ca, seen) = store.open(&leads).await.unwrap();
    let (ca, before) = (Arc::new(ca), server.secret.lock().unwrap().0.clone());
    let keeping = tokio::spawn(keep(store, ca.clone(), seen, || Duration::from_secs(60)));
    {
        let mut secret = server.secret.lock().unwrap();
        *secret = (Value::Null, secret.1 + 1);
    }
    tokio::time::sleep(LOOK * 2).await;
    assert_eq!(server.secret.lock().unwrap().0, before);
    tokio::time::sleep(LOOK * 2).await;
    assert_eq!(ca.trust().roots(&domain()).len(), 1);
    keeping.abort();
}
