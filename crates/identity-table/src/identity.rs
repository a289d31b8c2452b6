//! Identities: the classes of addresses that nothing loaded can tell apart.
//!
//! Two steps. A [`Class`] is what policies can see of an address: namespace, labels, service
//! account, named ports, covering prefixes. An [`Identity`] is a class together with what the two
//! exemptions of every policy need: the node (a node reaches its own pods), and the pod itself where
//! it has several addresses of one family (a pod reaches itself).

use std::sync::Arc;

use ahash::AHashMap;

use crate::IdentityId;
use crate::Labels;
use crate::endpoint::{EndpointName, NamedPort, Namespace, ServiceAccount};
use crate::region::Cover;

/// What policies can see of an address.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Class {
    /// Who owns the address.
    pub owner: Owner,
    /// The sources of prefixes that cover it.
    pub cover: Cover,
}

/// Who owns an address.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Owner {
    /// A workload that policies apply to.
    Workload(Workload),
    /// A node, or a workload that shares its network.
    Node {
        /// The node's name.
        name: Arc<str>,
        /// The node's labels; none if only workloads mention it.
        labels: Labels,
    },
    /// Nobody in the cluster.
    World,
}

/// What policies can see of a workload: the same for all replicas.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Workload {
    /// Its namespace, with the labels of that moment.
    pub namespace: Namespace,
    /// Its own labels.
    pub labels: Labels,
    /// Its service account, with the labels of that moment.
    pub service_account: ServiceAccount,
    /// Its named ports, sorted.
    pub named_ports: Arc<[NamedPort]>,
}

/// The number of a class, dense from 0; given again as soon as the class is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct ClassId(pub u32);

impl ClassId {
    /// The class of every address that nothing loaded speaks of.
    pub const WORLD: Self = Self(0);
}

/// The number of a node, dense from 1, never given again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct NodeNumber(pub core::num::NonZeroU32);

/// One identity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Its number.
    pub id: IdentityId,
    /// The number of its class.
    pub class_id: ClassId,
    /// Its class.
    pub class: Arc<Class>,
    /// The node that the workload runs on, or that the address belongs to.
    pub node: Option<(NodeNumber, Arc<str>)>,
    /// The one pod of this identity, if the pod has several addresses of one family.
    pub pod: Option<(PodNumber, EndpointName)>,
}

/// The number of a pod that has identities of its own, dense from 1, never given again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct PodNumber(pub core::num::NonZeroU32);

/// What is interned as one identity.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
struct Key {
    class: ClassId,
    node: Option<NodeNumber>,
    pod: Option<PodNumber>,
}

/// Classes and identities by content, counted by the addresses and regions that have them.
#[derive(Debug)]
pub(crate) struct Interner {
    classes: Vec<Option<(Arc<Class>, u32)>>,
    class_ids: AHashMap<Arc<Class>, ClassId>,
    free_classes: Vec<ClassId>,
    identities: Vec<Option<(Arc<Identity>, u32)>>,
    ids: AHashMap<Key, IdentityId>,
    free_ids: Vec<IdentityId>,
}

impl Interner {
    pub(crate) fn new() -> Self {
        let mut this = Self {
            classes: Vec::new(),
            class_ids: AHashMap::new(),
            free_classes: Vec::new(),
            identities: Vec::new(),
            ids: AHashMap::new(),
            free_ids: Vec::new(),
        };
        // The reserved identities refer to it for ever.
        let world = Class { owner: Owner::World, cover: Arc::new([]) };
        let id = this.intern_class(world, &mut Vec::new());
        debug_assert_eq!(id, ClassId::WORLD);
        this.classes[0].as_mut().expect("just interned").1 = 1;
        this
    }

    /// One more user of the identity of this content; new classes and identities are noted.
    pub(crate) fn acquire(
        &mut self,
        class: Class,
        node: Option<(NodeNumber, Arc<str>)>,
        pod: Option<(PodNumber, EndpointName)>,
        added: &mut Added,
    ) -> IdentityId {
        let class_id = self.intern_class(class, &mut added.classes);
        let key = Key {
            class: class_id,
            node: node.as_ref().map(|n| n.0),
            pod: pod.as_ref().map(|p| p.0),
        };
        if let Some(&id) = self.ids.get(&key) {
            self.slot(id).as_mut().expect("interned identities are alive").1 += 1;
            return id;
        }
        let id = self.free_ids.pop().unwrap_or_else(|| {
            let index = u32::try_from(self.identities.len()).ok();
            let raw = index.and_then(|i| IdentityId::FIRST_DYNAMIC.get().checked_add(i));
            self.identities.push(None);
            IdentityId::new(raw.expect("fewer than 2^32 - 256 identities"))
        });
        let class_slot = self.classes[class_id.0 as usize].as_mut().expect("just interned");
        class_slot.1 += 1;
        let class = class_slot.0.clone();
        *self.slot(id) = Some((Arc::new(Identity { id, class_id, class, node, pod }), 1));
        self.ids.insert(key, id);
        added.identities.push(id);
        id
    }

    /// One user less; tells whether it was the last, and whether its class went too. The number
    /// stays taken until [`reuse`](Interner::reuse).
    pub(crate) fn release(&mut self, id: IdentityId) -> Option<Gone> {
        let slot = self.slot(id);
        let entry = slot.as_mut()?;
        entry.1 -= 1;
        if entry.1 > 0 {
            return None;
        }
        let (identity, _) = slot.take()?;
        self.ids.remove(&Key {
            class: identity.class_id,
            node: identity.node.as_ref().map(|n| n.0),
            pod: identity.pod.as_ref().map(|p| p.0),
        });
        let class_slot = &mut self.classes[identity.class_id.0 as usize];
        let class = class_slot.as_mut()?;
        class.1 -= 1;
        let last = class.1 == 0;
        if last {
            self.class_ids.remove(&identity.class);
            *class_slot = None;
            self.free_classes.push(identity.class_id);
        }
        Some(Gone { class: last.then_some(identity.class_id) })
    }

    /// Lets a released number be given again.
    pub(crate) fn reuse(&mut self, id: IdentityId) {
        self.free_ids.push(id);
    }

    pub(crate) fn identity(&self, id: IdentityId) -> Option<&Arc<Identity>> {
        let index = id.get().checked_sub(IdentityId::FIRST_DYNAMIC.get())?;
        self.identities.get(index as usize)?.as_ref().map(|(identity, _)| identity)
    }

    pub(crate) fn identities(&self) -> impl Iterator<Item = &Arc<Identity>> {
        self.identities.iter().flatten().map(|(identity, _)| identity)
    }

    pub(crate) fn classes(&self) -> impl Iterator<Item = (ClassId, &Arc<Class>)> {
        let numbered = self.classes.iter().enumerate();
        numbered.filter_map(|(i, slot)| Some((ClassId(i as u32), &slot.as_ref()?.0)))
    }

    pub(crate) fn class(&self, id: ClassId) -> Option<&Arc<Class>> {
        self.classes.get(id.0 as usize)?.as_ref().map(|(class, _)| class)
    }

    fn intern_class(&mut self, class: Class, added: &mut Vec<ClassId>) -> ClassId {
        if let Some(&id) = self.class_ids.get(&class) {
            return id;
        }
        let id = self.free_classes.pop().unwrap_or_else(|| {
            self.classes.push(None);
            ClassId(u32::try_from(self.classes.len() - 1).expect("fewer than 2^32 classes"))
        });
        let class = Arc::new(class);
        self.class_ids.insert(class.clone(), id);
        // The caller's identity is the first user.
        self.classes[id.0 as usize] = Some((class, 0));
        added.push(id);
        id
    }

    fn slot(&mut self, id: IdentityId) -> &mut Option<(Arc<Identity>, u32)> {
        &mut self.identities[(id.get() - IdentityId::FIRST_DYNAMIC.get()) as usize]
    }
}

/// What an acquisition created.
#[derive(Debug, Default)]
pub(crate) struct Added {
    pub(crate) classes: Vec<ClassId>,
    pub(crate) identities: Vec<IdentityId>,
}

/// What went with the last user of an identity.
#[derive(Debug)]
pub(crate) struct Gone {
    pub(crate) class: Option<ClassId>,
}
