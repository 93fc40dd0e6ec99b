"""fsgen: how often, where and to what effect a large language model has to help a small one."""
