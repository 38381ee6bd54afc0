"""The forms of keys and tokens that services give out, as data.

The forms are facts, taken from the rules of gitleaks (github.com/gitleaks/gitleaks,
config/gitleaks.toml at b58d3f1, MIT) and the plugins of detect-secrets
(github.com/Yelp/detect-secrets at 5e14193, Apache-2.0), and from the services' own documentation.
Only forms with a prefix of their own are here: a bare run of hexadecimal digits is a git hash as
often as a key, and is redacted by its name.
"""

from __future__ import annotations

import re

SHORTEST = 16
"""No form has fewer characters."""

# One form a line. W is [A-Za-z0-9_-], N is [A-Za-z0-9]. No form contains another quantifier than
# one of a single set, so that a search costs linear time.
_FORMS = r"""
hf_N{20,}                                   Hugging Face
api_org_N{30,}                              Hugging Face, organisation
sk-(?:proj|svcacct|admin|ant|or|None)-W{16,}  OpenAI, Anthropic, OpenRouter
sk-N{16,}                                   OpenAI, DeepSeek and others like it
[sp]k-lf-W{16,}                             Langfuse
[spr]k_(?:live|test|prod)_N{10,}            Stripe
whsec_N{16,}                                Stripe, webhook
gsk_N{20,}                                  Groq
xai-N{20,}                                  xAI
pplx-N{20,}                                 Perplexity
tgp_v1_W{20,}                               Together
csk-N{20,}                                  Cerebras
r8_N{20,}                                   Replicate
nvapi-W{20,}                                NVIDIA
jina_N{30,}                                 Jina
lsv2_(?:pt|sk)_W{20,}                       LangSmith
pcsk_W{20,}                                 Pinecone
rpa_N{30,}                                  RunPod
wandb_v1_W{20,}                             Weights & Biases
fw_N{20,}                                   Fireworks
AIzaW{30,}                                  Google API
GOCSPX-W{20,}                               Google OAuth client
ya29\.W{20,}                                Google OAuth
gh[pousr]_N{20,}                            GitHub
github_pat_\w{20,}                          GitHub, fine-grained
gl(?:pat|cbt|dt|ffct|ft|imt|agent|oas|ptt|rt|soat)-W{16,}  GitLab
GR1348941W{16,}                             GitLab, runner
ATATT3W{20,}                                Atlassian
ATBBN{24,}                                  Bitbucket
xox[abeoprs]-[A-Za-z0-9-]{10,}              Slack
xoxe\.xox[bp]-[A-Za-z0-9-]{10,}             Slack, configuration
xapp-[A-Za-z0-9-]{10,}                      Slack, application
(?:A3T[A-Z0-9]|AKIA|ASIA|ABIA)[A-Z0-9]{16}  AWS
ABSK[A-Za-z0-9+/]{60,}                      AWS Bedrock
LTAIN{16,}                                  Alibaba
AKIDN{32}                                   Tencent
SG\.W{16,}\.W{16,}                          SendGrid
SK[0-9a-f]{32}                              Twilio
key-[0-9a-f]{32}                            Mailgun
[0-9a-f]{32}-us[0-9]{1,2}                   Mailchimp
xkeysib-W{40,}                              Brevo
npm_N{30,}                                  npm
pypi-AgW{40,}                               PyPI
rubygems_[a-f0-9]{40,}                      RubyGems
CLOJARS_N{50,}                              Clojars
dckr_(?:pat|oat)_W{16,}                     Docker
AKCpN{60,}                                  Artifactory
cmVmdN{50,}                                 Artifactory, reference token
dapi[a-f0-9]{32}                            Databricks
do[opr]_v1_[a-f0-9]{60,}                    DigitalOcean
fo1_W{40,}                                  Fly.io
fm[12][ar]?_[A-Za-z0-9+/]{60,}              Fly.io, macaroon
HRKU-W{30,}                                 Heroku
hv[bs]\.W{60,}                              Vault
pul-[a-f0-9]{40}                            Pulumi
pnu_N{30,}                                  Prefect
dp\.(?:pt|st|ct|sa|scim|audit)\.W{20,}      Doppler
dt0[a-z]01\.N{24}\.N{40,}                   Dynatrace
gl(?:c|sa)_[A-Za-z0-9+/_]{30,}              Grafana
NRAK-N{20,}                                 New Relic
sntry[su]_[A-Za-z0-9+/_]{20,}               Sentry
lin_api_N{30,}                              Linear
ntn_N{30,}                                  Notion
PMAK-W{40,}                                 Postman
rdme_[a-z0-9]{60,}                          ReadMe
shp(?:at|ca|pa|ss)_[A-Fa-f0-9]{32}          Shopify
sq0[a-z]{3}-W{20,}                          Square
EAAA[A-Za-z0-9_-]{40,}                      Square, Facebook
EAAMN{60,}                                  Facebook
EZ[AT]KN{50,}                               EasyPost
duffel_(?:test|live)_W{30,}                 Duffel
pscale_(?:oauth|tkn|pw)_W{20,}              PlanetScale
ops_eyJ[A-Za-z0-9+/]{60,}                   1Password
A3-[A-Z0-9]{6}-[A-Z0-9-]{20,}               1Password, secret key
AGE-SECRET-KEY-1[A-Z0-9]{40,}               age
sha256~W{40,}                               OpenShift
shippo_(?:live|test)_[a-fA-F0-9]{40}        Shippo
sgp_[A-Za-z0-9_]{40,}                       Sourcegraph
ico-N{32}                                   Infracost
tk-us-W{40,}                                Scalingo
sm_[aps]at_N{16}                            SettleMint
pat[A-Za-z0-9]{14}\.[a-f0-9]{40,}           Airtable
[0-9]{8,10}:AAW{32,}                        Telegram
[MNO]N{23,25}\.W{6}\.W{27,}                 Discord
(?<![_-])eyJW{10,}\.W{10,}\.[\w-]*             JSON Web Token
b3BlbnNzaC1rZXktdjE[A-Za-z0-9+/=]{20,}      OpenSSH private key, without its frame
"""


def _pattern(line: str) -> str:
    form = line.split("  ")[0].strip()
    for short, characters in (("W{", r"[\w-]{"), ("N{", "[A-Za-z0-9]{")):
        form = form.replace(short, characters)
    return form


TOKEN = re.compile(
    r"(?<![A-Za-z0-9])(?:"
    + "|".join(_pattern(line) for line in _FORMS.strip().splitlines())
    + r")(?![A-Za-z0-9])[+/=]*",
    re.ASCII,
)
"""A key or token with a form of its own."""

WEBHOOK = re.compile(
    r"""(
        //(?:[a-z0-9-]+\.)*hooks?[a-z0-9-]*\.[a-z0-9.-]+/
      | //(?:[a-z0-9-]+\.)*webhook\.office\.com/
      | //api\.telegram\.org/(?:file/)?bot
      | //[^/\s"'<>]{1,200}/(?:[\w.-]{1,40}/){0,5}(?:web)?hooks?[a-z0-9]{0,3}/(?=\D{0,200}\d)
      | //open\.(?:feishu\.cn|larksuite\.com)/open-apis/bot/v2/hook/
      | //maker\.ifttt\.com/trigger/
    )[^\s"'<>`]{8,}""",
    re.VERBOSE | re.IGNORECASE,
)
"""The address of a webhook, which is a secret as a whole: its path is all that a sender needs."""
