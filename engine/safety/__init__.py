"""Safety: control modes, who may change them and when."""
