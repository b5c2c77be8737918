"""Whatever can teach: weights, recorded probabilities or an endpoint, behind one protocol of three depths."""
