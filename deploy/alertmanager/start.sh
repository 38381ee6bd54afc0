#!/bin/sh
# start.sh [OPTION...]: start Alertmanager with alertmanager.yml and the receivers that these
# variables name. Each may be given as NAME_FILE instead, the path of a file that holds the value.
#
#   ALERT_WEBHOOK_URL      where alerts are posted to, as Alertmanager's JSON
#   ALERT_EMAIL_TO         addresses, separated by commas
#   ALERT_EMAIL_FROM       the sender; needed with ALERT_EMAIL_TO
#   ALERT_SMTP             host:port of the mail server; needed with ALERT_EMAIL_TO
#   ALERT_SMTP_USER        login at the mail server; none without
#   ALERT_SMTP_PASSWORD    its password
#   ALERT_SMTP_TLS         false sends mail without TLS
#
#   ALERTMANAGER           the program; default alertmanager
#   ALERTMANAGER_CONFIG    the file that is written, readable by this user only; default
#                          /tmp/alertmanager.yml
#
# The options are those of Alertmanager.
set -eu
umask 077

fail() { echo "start.sh: $1" >&2; exit 2; }

# value NAME: $NAME, or what the file of $NAME_FILE holds; empty without both.
value() {
  eval "plain=\${$1:-} path=\${$1_FILE:-}"
  [ -z "$plain" ] || [ -z "$path" ] || fail "$1 and $1_FILE are both set: unset one of them"
  if [ -n "$path" ]; then
    [ -r "$path" ] || fail "$1_FILE is $path, which cannot be read: make it readable for user $(id -u)"
    plain=$(cat "$path")
    [ -n "$plain" ] || fail "$1_FILE is $path, which is empty: write the value into it"
  fi
  case $plain in *"
"*) fail "$1 has more than one line: it takes one value" ;; esac
  printf %s "$plain"
}

# quoted TEXT: as a value of YAML.
quoted() { printf "'%s'" "$(printf %s "$1" | sed "s/'/''/g")"; }

webhook=$(value ALERT_WEBHOOK_URL)
to=$(value ALERT_EMAIL_TO)
from=$(value ALERT_EMAIL_FROM)
smtp=$(value ALERT_SMTP)
user=$(value ALERT_SMTP_USER)
password=$(value ALERT_SMTP_PASSWORD)
tls=$(value ALERT_SMTP_TLS)

case $webhook in
  "" | http://?* | https://?*) ;;
  *) fail "ALERT_WEBHOOK_URL is no address: it begins with http:// or https://" ;;
esac
case ${tls:=true} in
  true | false) ;;
  *) fail "ALERT_SMTP_TLS is $tls: it is true or false" ;;
esac
if [ -n "$to" ]; then
  [ -n "$from" ] || fail "ALERT_EMAIL_TO needs ALERT_EMAIL_FROM, the address of the sender"
  case $smtp in
    ?*:?*) ;;
    *) fail "ALERT_EMAIL_TO needs ALERT_SMTP as host:port, for example mail.example.org:587" ;;
  esac
fi

config=${ALERTMANAGER_CONFIG:-/tmp/alertmanager.yml}
rm -f "$config"
{
  cat "$(dirname "$0")/alertmanager.yml"
  # The receiver `notify` is the last in the file: what follows belongs to it.
  if [ -n "$webhook" ]; then
    echo "    webhook_configs:"
    echo "      - url: $(quoted "$webhook")"
    echo "        send_resolved: true"
  fi
  if [ -n "$to" ]; then
    echo "    email_configs:"
    echo "      - to: $(quoted "$to")"
    echo "        from: $(quoted "$from")"
    echo "        smarthost: $(quoted "$smtp")"
    echo "        require_tls: $tls"
    echo "        send_resolved: true"
    [ -z "$user" ] || echo "        auth_username: $(quoted "$user")"
    [ -z "$password" ] || echo "        auth_password: $(quoted "$password")"
  fi
} > "$config"
[ -n "$webhook$to" ] || echo "start.sh: no receiver is set: alerts are on Alertmanager's page only" >&2

# The program needs them no more, and its environment can be read by others of this user.
unset ALERT_WEBHOOK_URL ALERT_SMTP_PASSWORD
exec "${ALERTMANAGER:-alertmanager}" --config.file="$config" "$@"
