//! The wiring of a control plane in a cluster: the API server as the source, as the judge of tokens and as the keeper of the authority; the
//! webhooks; and what the leader writes.

use crate::admin::Audience;
use crate::authenticate::TokenReviewer;
use crate::ca::{Ca, secret, webhook};
use crate::config::Cluster;
use crate::events::{self, Recorder};
use crate::leader::election::Campaign;
use crate::leader::replicas::Replicas;
use crate::leader::roots::Roots;
use crate::leader::{self, Leadership};
use crate::metrics::Bound;
use crate::serve::View;
use crate::{Ground, RunError, Serves, Starting, admission, bind, cluster, inject, watch};
use kube::Client;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::sync::watch as latest;

/// How long a replica that was asked to end goes on to answer: the Service's endpoints, and what kube-proxy makes of them, follow its
/// readiness within a second or two, and until then sidecars and the API server still come.
pub(crate) const LAME_DUCK: Duration = Duration::from_secs(5);

/// What the webhooks need, besides a client.
struct Webhooks {
    address: SocketAddr,
    injection: PathBuf,
    namespace: String,
    roots: Roots,
    events: Recorder,
}

/// Starts everything. Waits for what is not there yet, and says for what.
pub(crate) async fn start(starting: &mut Starting, listen: SocketAddr, config: Cluster) -> Result<Serves, RunError> {
    let Cluster { health, webhook, injection, gateway_api, namespace, pod } = config;
    starting.admin(bind(health, "health", "--health").await?, Audience::Everybody);
    let client = cluster::client().await.map_err(RunError::Cluster)?;

    let (events, waiting) = Recorder::new(starting.metrics.clone());
    starting.room("events", events::post(client.clone(), pod.clone(), waiting));
    let leadership = campaign(starting, &client, &namespace, &pod);

    let (sender, mut batches) = mpsc::channel(watch::MAX_BATCHES);
    let kinds = watch::kubernetes::Kinds { gateway_api };
    starting.room("watch", watch::kubernetes::watch_cluster(client.clone(), kinds, sender, starting.metrics.clone()));
    let publisher = starting.first(&mut batches).await?;
    tracing::info!("all objects were listed");

    let store = secret::Store::new(client.clone(), &namespace, &publisher.trust_domain());
    let (ca, seen) = store.open(&leadership).await?;
    let ca = Arc::new(ca);
    let authenticate = Arc::new(TokenReviewer::new(client.clone(), starting.metrics.clone()));
    let ground = Ground { publisher, batches, ca: ca.clone(), authenticate, events: events.clone() };
    let serves = starting.serve(listen, ground).await?;
    let lifetime = {
        let views = serves.views.clone();
        move || views.borrow().mesh().certificate_lifetime
    };
    starting.room("authority", secret::keep(store, ca.clone(), seen, lifetime));

    let pem = pem(starting, &ca);
    let roots = Roots::new(client.clone(), pem.clone());
    let webhooks = Webhooks { address: webhook, injection, namespace: namespace.clone(), roots: roots.clone(), events: events.clone() };
    serve_webhooks(starting, webhooks, &ca, serves.views.clone()).await?;

    starting.room("roots", leader::roots::keep(roots, leadership.clone(), serves.views.clone()));
    let (views, metrics) = (serves.views.clone(), starting.metrics.clone());
    starting.room("naked pods", leader::naked::keep(namespace.clone(), leadership.clone(), views, events.clone(), metrics));
    starting.room("webhooks", leader::webhooks::keep(client.clone(), pem, leadership.clone()));
    let sources = leader::status::Sources {
        views: serves.views.clone(),
        sidecars: serves.sidecars.clone(),
        replicas: Replicas::new(&namespace, &pod, serves.servings.clone()),
        events,
        metrics: starting.metrics.clone(),
    };
    starting.room("status", leader::status::keep(client, leadership, sources));
    Ok(serves)
}

/// Takes part in the election.
fn campaign(starting: &mut Starting, client: &Client, namespace: &str, pod: &str) -> Leadership {
    let (until, led) = latest::channel(None);
    let campaign = Campaign::new(client.clone(), namespace, pod);
    starting.tasks.campaigns.spawn(campaign.run(until, starting.stopping.closing.subscribe(), starting.metrics.clone()));
    Leadership::new(led)
}

/// The roots as text, whenever they change.
fn pem(starting: &mut Starting, ca: &Arc<Ca>) -> latest::Receiver<Arc<str>> {
    let text = |ca: &Ca| Arc::<str>::from(ca.trust().to_pem(ca.trust_domain()));
    let (sender, receiver) = latest::channel(text(ca));
    let ca = ca.clone();
    starting.room("text of the roots", async move {
        let mut changes = ca.changes();
        while changes.changed().await.is_ok() {
            let text = text(&ca);
            sender.send_if_modified(|known| {
                let is_new = *known != text;
                *known = text.clone();
                is_new
            });
        }
    });
    receiver
}

async fn serve_webhooks(
    starting: &mut Starting,
    webhooks: Webhooks,
    ca: &Arc<Ca>,
    views: latest::Receiver<Arc<View>>,
) -> Result<(), RunError> {
    let Webhooks { address, injection, namespace, roots, events } = webhooks;
    let names = webhook::names(&namespace);
    let first = webhook::first(ca, &names).map_err(crate::ca::CaError::from)?;
    let (configs, config) = latest::channel(first.config());
    starting.room("certificate of webhooks", webhook::keep(ca.clone(), names, first, configs));

    let read = inject::config::read(&injection).map_err(|error| RunError::Injection(error.to_string()))?;
    let (current, injections) = latest::channel(Arc::new(read));
    starting.room("injection", inject::config::keep_reading(injection, current));
    let injector = admission::Injector::new(injections, admission::ClusterNamespaces::new(roots, views), events, &namespace);
    let closing = starting.stopping.closing.subscribe();
    let server = admission::Server::new(injector, config, closing, starting.metrics.admission.clone());
    let listener = bind(address, "webhooks", "--webhook").await?;
    starting.accept(listener, admission::MAX_CONNECTIONS, Bound::Webhook, move |stream, client| server.clone().connection(stream, client));
    Ok(())
}
