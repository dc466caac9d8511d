//! Queues threaded through one array, so that an element leaves from the middle in O(1).

/// No element.
pub(crate) const NONE: u32 = u32::MAX;

/// One queue; the array that it runs through is [`Links`].
#[derive(Debug, Clone)]
pub(crate) struct List {
    head: u32,
    tail: u32,
    len: u32,
}

impl Default for List {
    fn default() -> Self {
        Self {
            head: NONE,
            tail: NONE,
            len: 0,
        }
    }
}

impl List {
    pub(crate) fn len(&self) -> u32 {
        self.len
    }
}

#[derive(Debug, Clone, Copy)]
struct Link {
    before: u32,
    after: u32,
}

/// The links of all elements; an element is in at most one queue.
#[derive(Debug, Default)]
pub(crate) struct Links {
    links: Vec<Link>,
}

impl Links {
    /// Makes room for one more element, in no queue.
    pub(crate) fn grow(&mut self) {
        self.links.push(Link {
            before: NONE,
            after: NONE,
        });
    }

    /// Appends an element that is in no queue.
    pub(crate) fn push_back(&mut self, list: &mut List, key: u32) {
        let tail = list.tail;
        self.set(key, |link| {
            link.before = tail;
            link.after = NONE;
        });
        if tail == NONE {
            list.head = key;
        } else {
            self.set(tail, |link| link.after = key);
        }
        list.tail = key;
        list.len += 1;
    }

    /// Takes the element that was appended longest ago.
    pub(crate) fn pop_front(&mut self, list: &mut List) -> Option<u32> {
        let key = list.head;
        if key == NONE {
            return None;
        }
        self.remove(list, key);
        Some(key)
    }

    /// Takes an element out of the queue it is in.
    pub(crate) fn remove(&mut self, list: &mut List, key: u32) {
        let Some(Link { before, after }) = self.links.get(to_index(key)).copied() else {
            return;
        };
        if before == NONE {
            list.head = after;
        } else {
            self.set(before, |link| link.after = after);
        }
        if after == NONE {
            list.tail = before;
        } else {
            self.set(after, |link| link.before = before);
        }
        list.len -= 1;
    }

    fn set(&mut self, key: u32, change: impl FnOnce(&mut Link)) {
        if let Some(link) = self.links.get_mut(to_index(key)) {
            change(link);
        }
    }
}

fn to_index(key: u32) -> usize {
    usize::try_from(key).unwrap_or(usize::MAX)
}
