"""The engine: a module becomes an ordered graph, and the graph runs in two parts."""
