//! Tells of pods that should have a sidecar and have none: a metric on every replica, and Events by the one that leads.

use super::Leadership;
use crate::events::{Event, Recorder, Regarding};
use crate::metrics::Metrics;
use crate::naked::{Naked, naked};
use crate::serve::View;
use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// Shortest time between two looks: pods come and go in swarms.
const GATHER: Duration = Duration::from_secs(2);

/// Tells until cancelled. A pod is told of once for each term of leadership.
pub async fn keep(
    namespace: String,
    leadership: Leadership,
    mut views: watch::Receiver<Arc<View>>,
    events: Recorder,
    metrics: Arc<Metrics>,
) {
    let mut told: HashSet<(String, String, Option<String>)> = HashSet::new();
    loop {
        let view = views.borrow_and_update().clone();
        let found = naked(view.snapshot(), &namespace);
        metrics.naked_pods.set(i64::try_from(found.len()).unwrap_or(i64::MAX));
        let key = |naked: &Naked| (naked.namespace.clone(), naked.pod.clone(), naked.uid.clone());
        if leadership.leads() {
            let now: HashSet<_> = found.iter().map(key).collect();
            told.retain(|key| now.contains(key));
            for naked in found {
                if told.insert(key(&naked)) {
                    let Naked { namespace, pod, uid, sentence } = naked;
                    let regarding = Regarding { api_version: "v1".to_owned(), kind: "Pod".to_owned(), namespace, name: pod, uid };
                    events.record(Event::warning(regarding, "NakedPod", sentence));
                }
            }
        } else {
            told.clear();
        }
        tokio::time::sleep(GATHER).await;
        if views.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_support::{objects, trust};
    use crate::watch::{Batch, Change, Publisher};
    use tokio::time::Instant;

    const YAML: &str = "
apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {heddle.dev/inject: enabled}}
---
apiVersion: v1
kind: Pod
metadata: {name: web-1, namespace: shop, uid: u1}
spec: {containers: [{name: app}]}
";

    #[tokio::test(start_paused = true)]
    async fn the_leader_tells_of_a_naked_pod_once() {
        let metrics = Arc::new(Metrics::new().unwrap());
        let mut publisher = Publisher::new(metrics.clone());
        publisher.apply(Batch { changes: objects(YAML).into_iter().map(Change::Apply).collect(), problems: Vec::new() });
        let domain = publisher.trust_domain();
        publisher.trust(&domain, &trust(&domain));
        let view = Arc::new(publisher.view(None).unwrap());
        let (views, view_receiver) = watch::channel(view.clone());
        let (until, led) = watch::channel(None);
        let (events, mut recorded) = Recorder::new(metrics.clone());
        let task = tokio::spawn(keep("heddle-system".to_owned(), Leadership::new(led), view_receiver, events, metrics.clone()));
        tokio::time::sleep(GATHER * 2).await;
        assert!(recorded.try_recv().is_err(), "it does not lead");
        assert_eq!(metrics.naked_pods.get(), 1);
        until.send_replace(Some(Instant::now() + Duration::from_secs(3600)));
        for _ in 0..3 {
            views.send_replace(view.clone());
            tokio::time::sleep(GATHER * 2).await;
        }
        assert!(format!("{:?}", recorded.try_recv().unwrap()).contains("web-1"));
        assert!(recorded.try_recv().is_err());
        task.abort();
    }
}
