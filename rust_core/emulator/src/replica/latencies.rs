//! How long finished requests took, in the buckets of trtllm-serve's collector.

pub(crate) const FIRST_TOKEN_BOUNDS: [f64; 22] = [
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0,
    20.0, 40.0, 80.0, 160.0, 640.0, 2560.0,
];
pub(crate) const PER_TOKEN_BOUNDS: [f64; 19] = [
    0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0,
    40.0, 80.0,
];
pub(crate) const WHOLE_BOUNDS: [f64; 21] = [
    0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0, 240.0,
    480.0, 960.0, 1920.0, 7680.0,
];
pub(crate) const QUEUE_BOUNDS: [f64; 21] = WHOLE_BOUNDS;

/// Sums and buckets of finished requests' times, seconds of the engine's clock.
#[derive(Debug, Default)]
pub(crate) struct Latencies {
    pub(crate) first_token: Histogram<22>,
    pub(crate) per_token: Histogram<19>,
    pub(crate) whole: Histogram<21>,
    pub(crate) queue: Histogram<21>,
    pub(crate) stopped: u64,
    pub(crate) cut: u64,
}

/// A cumulative histogram; its bounds are kept by who prints it.
#[derive(Debug)]
pub(crate) struct Histogram<const N: usize> {
    pub(crate) buckets: [u64; N],
    pub(crate) count: u64,
    pub(crate) sum: f64,
}

impl<const N: usize> Default for Histogram<N> {
    fn default() -> Self {
        Self {
            buckets: [0; N],
            count: 0,
            sum: 0.0,
        }
    }
}

impl<const N: usize> Histogram<N> {
    pub(crate) fn observe(&mut self, value: f64, bounds: &[f64; N]) {
        for (bucket, bound) in self.buckets.iter_mut().zip(bounds) {
            *bucket += u64::from(value <= *bound);
        }
        self.count += 1;
        self.sum += value;
    }
}
