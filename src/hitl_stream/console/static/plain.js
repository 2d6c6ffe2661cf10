// What the desk's own words mean, in plain ones: rules, levels, verdicts and what they did.
//
// A rule that is not listed is shown by its name; nothing is left out for want of a sentence.

const RULES = {
  "agent.unknown": "The policy does not know this agent.",
  "amount.undefined": "The amount cannot be compared.",
  "approval.again": "An earlier approval was for other bytes.",
  "band.escalate": "Several things together make it risky.",
  "band.review": "Several things together make it somewhat risky.",
  "budget_overrun": "The budget would be overrun.",
  "class.auto_max_amount": "More money than an agent may move alone.",
  "class.auto_max_change": "A larger step than an agent may take alone.",
  "class.auto_max_change_per": "Too much in a short time, all steps together.",
  "class.auto_min_confidence": "The agent is less sure than it must be.",
  "class.level": "A person decides every action of this kind.",
  "class.review": "The policy wants people to look at this kind.",
  "class.undefined": "The policy does not know this kind of action.",
  "confidence.undefined": "The agent's confidence is no number between 0 and 1.",
  "ethical": "It was flagged as an ethical question.",
  "flag.unknown": "It carries a flag that the policy does not know.",
  "legs.accounts": "It touches several accounts.",
  "magnitude.undefined": "The size of the step cannot be told.",
  "missing.confidence": "The agent does not say how sure it is.",
  "missing.evidence": "It comes without evidence.",
  "move.unbalanced": "What is taken and what is given do not add up.",
  "pin": "This kind was put under review by an operator.",
  "unusual": "A far larger step than is usual here.",
  "window.full": "Too much happens here to keep a running sum.",
  "wrong_signal": "The evidence points the other way.",
};

/** What a rule means: {text, name}. */
export function rule(name) {
  if (RULES[name]) return RULES[name];
  const [kind, ...rest] = name.split(".");
  const what = rest.join(".");
  return {
    gate: `The gate ${what} found something.`, plugin: `The check ${what} found something.`, rule: `The policy's rule ${what} applies.`,
    flag: `It carries the flag ${what}.`, missing: `${what} is missing.`, switch: `Kill switch ${what} covers it.`,
  }[kind] ?? name;
}

export const LEVELS = {
  1: "only recommends; nothing of this kind runs", 2: "runs nothing of this kind before a person has approved it",
  3: "runs it alone inside these limits", 4: "runs it alone, and only logs it",
};

export const VERDICTS = { approve: "Approved", reject: "Rejected", change: "Changed", escalate: "Escalated" };

export const EXCEPTIONS = {
  platform: "The platform refused it, or nobody could tell whether it ran.", campaign_constraint: "A limit of the campaign stood against it.",
  brand_flag: "It was flagged for the brand.", data_quality: "What it was based on is in doubt.",
};

const EFFECTS = {
  applied: ["good", "it counts"], waiting: ["good", "it counts; another approval is still needed"],
  conflict: ["warn", "somebody else had decided it before"], late: ["warn", "its time was over before it came"], refused: ["bad", "it does not count"],
};

const WHYS = {
  too_fast: "it came faster than its content can be read", barred: "you proposed it, answer for its agent, or judged it before",
  role: "your role gives no approval that was missing", same_person: "two people are needed, and you had approved already",
  not_asked: "it is put to somebody else", not_open: "it is not open", reason: "the policy does not know its reason", replayed: "it had been counted already",
};

/** What a judgement did: {kind, text}. */
export function effect(judged) {
  const [kind, text] = EFFECTS[judged.effect] ?? ["warn", judged.effect];
  const why = judged.why ? WHYS[judged.why] ?? judged.why : "";
  return { kind, text: why ? `${text}: ${why}` : text };
}
