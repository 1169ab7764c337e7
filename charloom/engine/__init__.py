"""The engine: small transformations of a stock model that make training and sampling fast and small."""
