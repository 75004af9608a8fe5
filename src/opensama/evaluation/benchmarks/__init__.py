"""The field's benchmarks, each a class in a file of its own; `registry` names them, `benchmark` says what one is."""
