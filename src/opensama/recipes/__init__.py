"""Named settings of training runs: values, no code. Their types are in `training`: config and embedded_config."""
