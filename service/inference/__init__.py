"""From pixels to answers: bundles that serve, their queues, and how one replaces another."""
