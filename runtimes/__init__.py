"""Where chaincode runs: one contract (`runtimes.api`), one package per backend."""
