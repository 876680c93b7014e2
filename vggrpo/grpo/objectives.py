"""Which objective a training has."""

from vggrpo.grpo.flow_dpo import FlowDpo
from vggrpo.grpo.flow_sft import FlowSft
from vggrpo.grpo.lesson import Objective, TrainingContext
from vggrpo.grpo.policy_gradient import PolicyGradient


def make_objective(context: TrainingContext) -> Objective:
    """The objective that the settings name.

    Raises:
        UserError: the models were not loaded for it.
    """
    match context.config.objective:
        case "grpo":
            return PolicyGradient(context=context)
        case "dpo":
            return FlowDpo(context=context)
        case "sft":
            return FlowSft(context=context)
