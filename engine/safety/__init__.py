"""Safety: control modes, who may change them and when; what a button says, and what its panel shows."""
