"""A row of the final table, for tests."""

ROW = dict(
    notebook="01_good",
    victim="v0",
    setting="dependent",
    attack="global loss",
    representation="loss",
    n_members=300,
    n_nonmembers=2000,
    auc=0.625,
    auc_low=0.6,
    auc_high=0.65,
    tpr_at_1pct=0.03,
    tpr_low=0.01,
    tpr_high=0.05,
    precision_prior_50pct=0.75,
    precision_prior_10pct=0.25,
    precision_prior_1pct=0.0294,
)
