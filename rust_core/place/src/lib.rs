//! Places a weighed request: replicas, ledger, prefix index, keys and the choice among replicas.
